package config

// Encrypt says which columns are published encrypted, and by whose key.
type Encrypt struct {
	Columns []Name // at least one, none of them masked
	// Kind is what subjects are called, as pipelines are named, and Subject the column that says which one.
	Kind    string
	Subject Name
}

const minMasterKey = 32

func (r *reader) encryption(path string, n *node) {
	r.mapping(path, n, field{"master_key", func(path string, n *node) {
		r.secret(path, n, &r.cfg.MasterKey, minMasterKey, "WALRILL_MASTER_KEY")
	}, `master_key: "${WALRILL_MASTER_KEY}"`})
}

func (r *reader) encrypt(path string, n *node) *Encrypt {
	e := &Encrypt{}
	r.mapping(path, n,
		field{"columns", func(path string, n *node) { e.Columns = r.list(path, n, "list") }, "columns: [email, name]"},
		field{"subject", func(path string, n *node) { r.subject(path, n, e) }, "subject: {customer: id}"},
	)
	return e
}

// subject reads {kind: column}.
func (r *reader) subject(path string, n *node, e *Encrypt) {
	if n.kind == kindBad {
		return
	}
	if n.kind != kindMapping || len(n.entries) != 1 {
		r.fail(n.at, path, "want what the subjects are called and the column that says which one, such as `{customer: id}`")
		return
	}
	kind := n.entries[0]
	if msg := checkPipeline(kind.name); msg != "" {
		r.fail(kind.at, path, "the name %s %s", show(kind.name), msg)
	}
	column, ok := r.text(join(path, kind.name), kind.value, "a column's name")
	if ok && badIdentifier(column) {
		r.fail(kind.value.at, path, "the column %s cannot be a name in Postgres; write 1 to 63 bytes, without line breaks and without spaces at the ends", showValue(kind.value))
	}
	e.Kind, e.Subject = kind.name, Name{column, kind.value.at}
}

// wantMasterKey checks what encryption needs of other fields.
func (r *reader) wantMasterKey(root *node) {
	given := root.kind != kindMapping
	for _, e := range root.entries {
		given = given || e.name == "encryption"
	}
	for _, s := range r.cfg.Streams {
		for _, t := range s.AllTables() {
			if t.Encrypt == nil {
				continue
			}
			at := join(join(join(join("streams", s.Name), "tables"), t.Pattern), "encrypt")
			if !given {
				r.fail(t.At, at, "`encrypt` needs a key for the keys of the subjects; write at the top of the file `encryption: {master_key: \"${WALRILL_MASTER_KEY}\"}`")
				given = true // one error is enough
			}
			for _, m := range t.Masks {
				for _, c := range t.Encrypt.Columns {
					if c.Name == m.Column.Name {
						r.fail(c.At, at, "the column %s is masked too, at %s; keep one of the two", show(c.Name), lineOf(m.Column.At))
					}
				}
			}
		}
	}
}
