package transform

import (
	"testing"
	"time"

	"github.com/walrill/walrill/change"
)

// fourRules are the rules that docs/performance.md speaks of: four, with a
// payload of six expressions.
func fourRules() []Rule {
	payload := &Payload{Kind: PayloadObject, Object: []PayloadMember{
		{"account", Payload{Expr: &Expr{Text: "new.id"}}},
		{"owner", Payload{Expr: &Expr{Text: "new.owner"}}},
		{"balance", Payload{Expr: &Expr{Text: "new.balance"}}},
		{"status", Payload{Expr: &Expr{Text: "upper(new.status)"}}},
		{"delta", Payload{Expr: &Expr{Text: "new.balance - old.balance"}}},
		{"note", Payload{Expr: &Expr{Text: "new.note"}}},
	}}
	update := []change.Op{change.Update}
	return []Rule{
		{Type: "account.opened", On: []change.Op{change.Insert}},
		{Type: "account.closed", On: update, When: &Expr{Text: `old.status != "closed" && new.status == "closed"`}, Data: payload},
		{Type: "account.moved", On: update, When: &Expr{Text: `new.balance != old.balance && new.status in ["active", "dormant"]`}, Data: payload},
		{Type: "account.changed", On: update, Otherwise: true},
	}
}

func benchmarkRules(b *testing.B, rules []Rule, c *change.Change) {
	m, err := New(Mapping{Streams: []StreamMapping{{Name: "accounts", Partitions: 8, Tables: []TableMapping{{Pattern: "public.accounts", Rules: rules}}}}}, 0)
	if err != nil {
		b.Fatal(err)
	}
	m.Begin(change.Tx{CommitLSN: 0x16B3748, Time: time.Unix(1_790_000_000, 0).UTC(), XID: 731})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Map(c); err != nil {
			b.Fatal(err)
		}
	}
}

func updateOfBalance() *change.Change {
	old := accountsRow()
	old[2].Data = []byte("9.00")
	return &change.Change{Op: change.Update, Relation: accountsRelation(change.IdentityFull), New: accountsRow(), Old: old}
}

// onlyColumns has the columns as they are where fourRules calculates.
func onlyColumns(rules []Rule) []Rule {
	for _, r := range rules {
		if r.Data != nil {
			r.Data.Object[3].Value.Expr, r.Data.Object[4].Value.Expr = &Expr{Text: "new.status"}, &Expr{Text: "new.updated_at"}
		}
	}
	return rules
}

func TestRulesDoNotAllocate(t *testing.T) {
	m := newMapper(t, StreamMapping{Name: "accounts", Tables: []TableMapping{{Pattern: "public.accounts", Rules: fourRules()}}})
	c := updateOfBalance()
	events, err := m.Map(c)
	if err != nil || len(events) != 1 || events[0].Type != "account.moved" {
		t.Fatal(events, err)
	}
	want := `{"account":48213,"owner":"owner-48213","balance":10482.13,"status":"ACTIVE","delta":10473.13,"note":"` + string(accountsRow()[5].Data) + `"}`
	if string(events[0].Data) != want {
		t.Errorf("data is %s, want %s", events[0].Data, want)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := m.Map(c); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkRules compares four rules with none, on the same change.
func BenchmarkRules(b *testing.B) {
	never := []Rule{{Type: "account.gone", On: []change.Op{change.Delete}}}
	b.Run("none", func(b *testing.B) { benchmarkRules(b, nil, updateOfBalance()) })
	b.Run("four, six columns", func(b *testing.B) { benchmarkRules(b, onlyColumns(fourRules()), updateOfBalance()) })
	b.Run("four, two of six calculated", func(b *testing.B) { benchmarkRules(b, fourRules(), updateOfBalance()) })
	b.Run("cannot match", func(b *testing.B) { benchmarkRules(b, never, updateOfBalance()) })
}
