package change

// Identity is a table's replica identity: which old values Postgres sends
// with an update or delete (pg_class.relreplident).
type Identity byte

const (
	IdentityDefault Identity = 'd' // the primary key, if there is one
	IdentityNothing Identity = 'n'
	IdentityFull    Identity = 'f' // the whole row
	IdentityIndex   Identity = 'i' // a unique index
)

// Relation is one version of a table's definition. It never changes once
// made: a definition that changes is a new Relation.
type Relation struct {
	OID       uint32
	Namespace string
	Name      string
	Identity  Identity
	Columns   []Column
	// PrimaryKey holds the primary key's columns, in the key's order, as far as they are
	// published; empty without a primary key.
	PrimaryKey []string
}

// Column is one published column. Key says that it is part of the replica
// identity; under REPLICA IDENTITY FULL every column is.
type Column struct {
	Name     string
	Type     *Type
	TypeName string // as it is declared, with its modifier: numeric(10,2)
	Key      bool
}

// String is the qualified name, such as public.orders.
func (r *Relation) String() string { return r.Namespace + "." + r.Name }

// Column returns the index of the named column, or -1.
func (r *Relation) Column(name string) int {
	for i := range r.Columns {
		if r.Columns[i].Name == name {
			return i
		}
	}
	return -1
}

// Shape is how a type's text turns into JSON, following to_jsonb.
type Shape byte

const (
	ShapeText        Shape = iota // a JSON string of the text
	ShapeBool                     // t or f
	ShapeNumber                   // int2, int4, int8, float4, float8, numeric: a JSON number; NaN and infinities are strings
	ShapeTimestamp                // timestamp without time zone: ISO 8601 with a T
	ShapeTimestampTZ              // timestamp with time zone, sent in UTC: ISO 8601 with a T and +00:00
	ShapeJSON                     // json and jsonb: the text is JSON
	ShapeArray                    // Postgres's array text with Elem's delimiter
	ShapeVector                   // int2vector and oidvector: elements between spaces
	ShapeComposite                // a row of Fields
)

// Type is a column type with domains resolved to what they are made of.
type Type struct {
	OID    uint32
	Name   string // as format_type prints it
	Shape  Shape
	Elem   *Type   // ShapeArray and ShapeVector
	Delim  byte    // ShapeArray: between elements, ',' but for box
	Fields []Field // ShapeComposite, dropped attributes left out
}

// Field is one attribute of a composite type.
type Field struct {
	Name string
	Type *Type
}
