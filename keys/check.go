package keys

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walrill/walrill/event"
)

// Lacking is what keeps the keys from being read or made, and Fix the SQL or the edit that mends it.
type Lacking struct{ Problem, Fix string }

// Check looks whether keys can be read, made and destroyed, and changes nothing. The result is nil when they can; made is false as long as there is no table,
// which the daemon makes with the first key.
func Check(ctx context.Context, url, masterKey string) (lacking *Lacking, made bool, err error) {
	s, err := New(url, masterKey)
	if err != nil {
		return nil, false, err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, false, fmt.Errorf("connect to the keys of subjects: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it only read
	if _, err := conn.Exec(ctx, "SET default_transaction_read_only = on"); err != nil {
		return nil, false, fmt.Errorf("look at walrill.subject_keys: %w", err)
	}
	var role, database string
	var schema, creates, uses, sel, ins, upd bool
	err = conn.QueryRow(ctx, `
		SELECT quote_ident(current_user), quote_ident(current_database()), n.oid IS NOT NULL, c.oid IS NOT NULL,
		       CASE WHEN n.oid IS NULL THEN has_database_privilege(current_database(), 'CREATE') ELSE has_schema_privilege(n.oid, 'CREATE') END,
		       coalesce(has_schema_privilege(n.oid, 'USAGE'), true), coalesce(has_table_privilege(c.oid, 'SELECT'), true),
		       coalesce(has_table_privilege(c.oid, 'INSERT'), true), coalesce(has_table_privilege(c.oid, 'UPDATE'), true)
		FROM (SELECT) one LEFT JOIN pg_namespace n ON n.nspname = 'walrill' LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'subject_keys'`).
		Scan(&role, &database, &schema, &made, &creates, &uses, &sel, &ins, &upd)
	if err != nil {
		return nil, false, fmt.Errorf("look at walrill.subject_keys: %w", err)
	}
	var fixes, rights []string
	switch {
	case !made && !creates && !schema:
		return &Lacking{"walrill.subject_keys is not there, and role " + role + " may not make it", "GRANT CREATE ON DATABASE " + database + " TO " + role + ";"}, made, nil
	case !made && !(creates && uses):
		return &Lacking{"walrill.subject_keys is not there, and role " + role + " may not make it", "GRANT CREATE, USAGE ON SCHEMA walrill TO " + role + ";"}, made, nil
	case !made:
		return nil, made, nil
	}
	if !uses {
		fixes = append(fixes, "GRANT USAGE ON SCHEMA walrill TO "+role+";")
	}
	for _, r := range []struct {
		has  bool
		name string
	}{{sel, "SELECT"}, {ins, "INSERT"}, {upd, "UPDATE"}} {
		if !r.has {
			rights = append(rights, r.name)
		}
	}
	if rights != nil {
		fixes = append(fixes, "GRANT "+strings.Join(rights, ", ")+" ON walrill.subject_keys TO "+role+";")
	}
	if fixes != nil {
		return &Lacking{"role " + role + " may not read and write walrill.subject_keys, which has the keys of encrypted values", strings.Join(fixes, " ")}, made, nil
	}
	return s.checkMaster(ctx, conn)
}

// checkMaster opens one of the keys.
func (s *Store) checkMaster(ctx context.Context, conn *pgx.Conn) (*Lacking, bool, error) {
	var subject string
	err := conn.QueryRow(ctx, "SELECT subject FROM walrill.subject_keys WHERE key IS NOT NULL ORDER BY created DESC LIMIT 1").Scan(&subject)
	if err == nil {
		_, err = s.find(ctx, conn, subject)
	}
	var wrong ErrMasterKey
	switch {
	case errors.As(err, &wrong):
		text, fix, _ := strings.Cut(wrong.Error(), "; fix: ")
		return &Lacking{text, fix}, true, nil
	case errors.Is(err, pgx.ErrNoRows), errors.Is(err, event.ErrNoKey):
		return nil, true, nil
	}
	return nil, true, err
}
