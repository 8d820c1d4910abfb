package transform

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// Encrypt says which columns are published encrypted by the key of the row's subject: the one whose data they are.
// Values become what event.Sealer makes of them, noSubject when the row names none, and event.Forgotten when its key was destroyed.
type Encrypt struct {
	Columns []Name
	Kind    string // of subjects, such as customer; with the value of Subject it names one: customer/7
	Subject Name   // a column
}

// noSubject stands for a value of which the row does not say whose it is.
const noSubject = "[no subject]"

// KeyNeeded is the error that Map cannot go on before it has the key of a subject. The change has no
// events then and takes no position; once the key was given, Map is called with it again.
type KeyNeeded struct {
	subject string
	sealers *sealers
}

func (e *KeyNeeded) Error() string { return "the key of a data subject is needed" }

// NeedsKey is the subject, such as customer/7. It may be somebody's data: it is not to be logged.
func (e *KeyNeeded) NeedsKey() string { return e.subject }

// Give takes the subject's key, nil when it was destroyed.
func (e *KeyNeeded) Give(key []byte) error {
	var s *event.Sealer
	if key != nil {
		var err error
		if s, err = event.NewSealer(e.subject, key); err != nil {
			return err
		}
	}
	if e.sealers.known == nil || len(e.sealers.known) >= maxSealers {
		e.sealers.known = map[string]*event.Sealer{} // they can be asked for again
	}
	e.sealers.known[e.subject] = s
	return nil
}

// sealers are those of the subjects whose keys are known; nil for one that was forgotten.
type sealers struct {
	known  map[string]*event.Sealer
	missed string // a subject whose key was not known when it was needed
}

const maxSealers = 4096 // some 2 KiB each

// subjects finds the subject of a row.
type subjects struct {
	kind   string
	column int
	keys   *sealers
	name   []byte // scratch
}

// sealing is what is done with the encrypted columns of a row.
type sealing struct {
	sealer  *event.Sealer
	instead string // without a sealer
}

func (s sealing) append(dst []byte, column string, value []byte) []byte {
	if s.sealer == nil {
		return append(dst, s.instead...)
	}
	return s.sealer.Append(dst, column, value)
}

// encrypt adds columns that are encrypted.
func (m *masker) encrypt(e *Encrypt, keys *sealers) (errs []*Error) {
	for _, c := range e.Columns {
		errs = append(errs, m.add(c, maskEncrypt, nil)...)
	}
	i := m.rel.Column(e.Subject.Name)
	if i < 0 {
		return append(errs, unknownColumn(m.rel, e.Subject.Where, "subject column", e.Subject.Name))
	}
	if kind := m.kindOf(i); kind != "" {
		return append(errs, &Error{Where: e.Subject.Where, Table: m.rel.String(), Columns: []string{e.Subject.Name},
			Problem: fmt.Sprintf("column %s says whose the encrypted values are, which stands beside them for everybody to read, and it has itself the mask %s", e.Subject.Name, kind),
			Fix:     "take a column that nothing hides, such as an id"})
	}
	if !m.rel.Columns[i].Key && slices.ContainsFunc(m.columns, func(c maskedColumn) bool { return c.kind == maskEncrypt && m.rel.Columns[c.index].Key }) {
		return append(errs, &Error{Where: e.Subject.Where, Table: m.rel.String(), Columns: []string{e.Subject.Name},
			Problem: "Postgres sends old values of encrypted columns without that of " + e.Subject.Name + ", which says whose they are",
			Fix:     "ALTER TABLE " + sqlName(m.rel) + " REPLICA IDENTITY FULL"})
	}
	m.subjects = &subjects{kind: e.Kind, column: i, keys: keys}
	return errs
}

// find is the name of a row's subject in a buffer; ok is false when the row names none.
func (s *subjects) find(row, before []change.Value) (name []byte, ok bool) {
	v := &row[s.column]
	if v.Kind == change.Unchanged && before != nil {
		v = &before[s.column]
	}
	if v.Kind != change.Text {
		return nil, false
	}
	s.name = append(append(append(s.name[:0], s.kind...), '/'), v.Data...)
	return s.name, true
}

func (s *subjects) of(row, before []change.Value) sealing {
	name, ok := s.find(row, before)
	if !ok {
		return sealing{instead: noSubject}
	}
	sealer, known := s.keys.known[string(name)]
	if !known {
		s.keys.missed = string(name)
	}
	return sealing{sealer, event.Forgotten}
}

// needKeys is a *KeyNeeded when a change has values to encrypt for a subject whose key is not known.
func (t *table) needKeys(c *change.Change) error {
	if !t.encrypts {
		return nil
	}
	for i := range t.routes {
		m := t.routes[i].masks
		if m == nil || m.subjects == nil {
			continue
		}
		for _, rows := range [][2][]change.Value{{c.New, c.Old}, {c.Old, nil}} {
			if rows[0] == nil || !m.hasSealed(rows[0], rows[1]) {
				continue
			}
			name, ok := m.subjects.find(rows[0], rows[1])
			if !ok {
				continue
			}
			if _, known := m.subjects.keys.known[string(name)]; !known {
				return &KeyNeeded{string(name), m.subjects.keys}
			}
		}
	}
	return nil
}

// passOn reports whether a value that an update left alone becomes that of another subject: it is encrypted anew, by the new one's key.
func (s *subjects) passOn(row, before []change.Value, column int) bool {
	return before != nil && row[column].Kind == change.Unchanged && before[column].Kind == change.Text &&
		row[s.column].Kind != change.Unchanged && !bytes.Equal(row[s.column].Data, before[s.column].Data)
}

func (m *masker) hasSealed(row, before []change.Value) bool {
	for i := range m.columns {
		if c := &m.columns[i]; c.mask == nil && (row[c.index].Kind == change.Text || m.subjects.passOn(row, before, c.index)) {
			return true
		}
	}
	return false
}
