package projector

import (
	"context"
	"fmt"
)

// Explanation says what a view needs and how changes come to it.
type Explanation struct {
	View    string             `json:"view"`
	Kind    string             `json:"kind"` // mirror, query or fold
	Key     []string           `json:"key"`
	Columns []Column           `json:"columns"` // of the view; Name and As are the same
	Tables  []TableExplanation `json:"tables"`
	Events  []FoldExplanation  `json:"events,omitempty"` // of a fold
	Now     bool               `json:"from_now,omitempty"`
	ByKey   bool               `json:"by_key,omitempty"` // it is kept key by key
}

// FoldExplanation is what a fold does with events of one type.
type FoldExplanation struct {
	Type    string   `json:"type"`
	Streams []string `json:"streams"`
	SQL     string   `json:"sql"`
}

// TableExplanation is what a view needs of one table.
type TableExplanation struct {
	Name    string   `json:"name"` // as the query names it
	Table   string   `json:"table"`
	Stream  string   `json:"stream"`
	Columns []string `json:"columns"`           // that are mirrored
	Indexes []string `json:"indexes,omitempty"` // that walrill makes on the mirror, beside its key
	Affects string   `json:"affects,omitempty"` // the SELECT over `changed` that gives the keys to recompute
	Derived bool     `json:"derived"`           // affects is not from the configuration
}

// Plan plans the views of options without keeping them. Errors about a view are *SetupError.
func Plan(ctx context.Context, o Options) error {
	_, err := o.plan(ctx)
	return err
}

// Explain plans a view of the options in the store and leaves nothing behind. Errors about the view are *SetupError.
func Explain(ctx context.Context, o Options, view string) (Explanation, error) {
	for i := range o.Views {
		if o.Views[i].Name != view {
			continue
		}
		o.Views = o.Views[i : i+1]
		defs, err := o.plan(ctx)
		if err != nil {
			return Explanation{}, err
		}
		e := explain(view, defs[view])
		e.ByKey = o.Views[0].ByKey
		return e, nil
	}
	return Explanation{}, o.noSuchView(view)
}

// noSuchView is the error for a name that no view of the options has.
func (o *Options) noSuchView(name string) error {
	names := make([]string, len(o.Views))
	for i := range o.Views {
		names[i] = o.Views[i].Name
	}
	if o.Nearest != nil {
		if near := o.Nearest(name, names); near != "" {
			return fmt.Errorf("the configuration has no view %s; did you mean %s?", name, near)
		}
	}
	return fmt.Errorf("the configuration has no view %s", name)
}

func explain(view string, d *definition) Explanation {
	e := Explanation{View: view, Kind: d.Kind, Key: d.Key}
	for i, c := range d.Columns {
		e.Columns = append(e.Columns, Column{Name: c, As: c, Type: d.Types[i]})
	}
	for i, m := range d.Mirrors {
		t := TableExplanation{Name: m.Name, Table: m.Source, Stream: m.Stream, Indexes: m.Indexes}
		for _, c := range m.Columns {
			t.Columns = append(t.Columns, c.Name)
		}
		if d.Kind == "query" {
			t.Affects, t.Derived = d.Affects[i].SQL, d.Affects[i].Derived
		}
		e.Tables = append(e.Tables, t)
	}
	if d.folds() {
		e.Now = d.Fold.Now
		for _, f := range d.Fold.Events {
			e.Events = append(e.Events, FoldExplanation(f))
		}
	}
	return e
}
