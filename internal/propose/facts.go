// Package propose makes a first configuration file from what a database's catalogue says. Read asks the
// catalogue, and only the catalogue; File turns the answer into text and is pure. It must not know how a
// pipeline runs: what it writes is read back by package config like any other file.
package propose

import "github.com/walrill/walrill/change"

// Catalogue is what Read found out about a database.
type Catalogue struct {
	Database string
	Version  int    // server_version_num, such as 170002
	WALLevel string // minimal, replica or logical
	Tables   []Table
}

// Table is a relation with rows of its own or of its partitions.
type Table struct {
	Schema, Name string
	Kind         byte   // pg_class.relkind: r table, p partitioned table, f foreign table
	Unlogged     bool   // its changes are not in the WAL
	PartitionOf  string // the topmost partitioned table, schema.name; empty for others
	Extension    string // the extension that the table is part of, or empty
	Identity     change.Identity
	Columns      []Column // in the table's order
	PrimaryKey   []string // in the key's order
	// Candidates are unique indexes that could be the replica identity: whole, immediate, all NOT NULL.
	Candidates  []string
	ForeignKeys []ForeignKey // by name of the constraint
	Rows        float64      // as last analysed, with all partitions; -1 when never
}

// Column is a column that is published: not a generated one.
type Column struct {
	Name     string
	Type     string // as format_type prints it
	NotNull  bool
	Identity bool     // part of the replica identity
	Default  string   // the default's expression, or empty
	Values   []string // the labels of an enum, in its order
	Checks   []string // definitions of check constraints on this column alone, its domain's included
}

// ForeignKey points from Columns to RefColumns of another table.
type ForeignKey struct {
	Columns    []string
	Table      string // schema.name
	RefColumns []string
	Cascade    bool // ON DELETE CASCADE
}

func (t *Table) String() string { return t.Schema + "." + t.Name }

func (t *Table) column(name string) *Column {
	for i := range t.Columns {
		if t.Columns[i].Name == name {
			return &t.Columns[i]
		}
	}
	return nil
}

// notNull reports whether all these columns are published and never null.
func (t *Table) notNull(names []string) bool {
	for _, name := range names {
		if c := t.column(name); c == nil || !c.NotNull {
			return false
		}
	}
	return true
}

// identified reports whether Postgres sends the old values of all these columns.
func (t *Table) identified(names []string) bool {
	for _, name := range names {
		if c := t.column(name); c == nil || !c.Identity {
			return false
		}
	}
	return true
}

// hasIdentity reports whether updates and deletes can be told apart by row.
func (t *Table) hasIdentity() bool {
	for i := range t.Columns {
		if t.Columns[i].Identity {
			return true
		}
	}
	return false
}
