package projector

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Removal is something of a pipeline in the view store, and what has become of it.
type Removal struct {
	What, Name string // such as schema walrill_shop
	There      bool   // it was there
	Left       string // why it is left, on purpose; "" when it is removed, or would be
	Err        error  // why it could not be removed
	Fix        string // removes what is left
}

// A KeptError says that somebody keeps the views.
type KeptError struct{ Who string }

func (e *KeptError) Error() string {
	return "a daemon keeps the views (" + e.Who + " of their Postgres): stop it first, with SIGTERM"
}

// Drop removes what a pipeline has in its view store: its mirrors, its records, and with views the tables of its views. What
// pipelines share goes with the last of them. With dry it only says what it would do. It refuses with a *KeptError while somebody keeps the views.
func Drop(ctx context.Context, o Options, views, dry bool) ([]Removal, error) {
	conn, err := connect(ctx, o.StoreURL, "drop")
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it did is committed
	d := &dropper{Options: o, conn: conn, dry: dry}
	groups := Groups(o.Pipeline)
	for _, group := range groups {
		if err := d.take(ctx, group); err != nil {
			return nil, err
		}
	}
	for _, group := range groups {
		d.Pipeline = group
		if err := d.views(ctx, views); err != nil {
			return d.list, err
		}
		schema := mirrorSchema(group)
		if err := d.remove(ctx, "schema", schema, "to_regnamespace", quoteIdent(schema), "DROP SCHEMA "+quoteIdent(schema)+" CASCADE; DROP SCHEMA IF EXISTS "+quoteIdent(fillSchema(group))+" CASCADE"); err != nil {
			return d.list, err
		}
		if last := len(d.list) - 1; group != o.Pipeline && !d.list[last].There {
			d.list = d.list[:last] // nothing was kept key by key
		}
	}
	return d.list, d.shared(ctx, groups)
}

// endsWithin is how long a session of a daemon that has just ended may still be there.
const endsWithin = 2 * time.Second

// take takes the lock of a group of views, so that nobody keeps them meanwhile.
func (d *dropper) take(ctx context.Context, group string) error {
	for deadline := time.Now().Add(endsWithin); ; {
		var taken bool
		if err := d.conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1, hashtext($2))", lockClass, group).Scan(&taken); err != nil {
			return fmt.Errorf("take the lock of the views: %w", err)
		}
		if taken {
			return nil
		}
		if time.Now().After(deadline) {
			break
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	who, err := lockHolder(ctx, d.conn, group)
	if err != nil {
		return err
	}
	return &KeptError{who}
}

type dropper struct {
	Options
	conn *pgx.Conn
	dry  bool
	list []Removal
}

// remove drops something when it is there. What Postgres refuses is noted, so that the rest is removed all the same.
func (d *dropper) remove(ctx context.Context, what, name, lookup, quoted, sql string) error {
	r := Removal{What: what, Name: name}
	if err := d.conn.QueryRow(ctx, "SELECT "+lookup+"($1) IS NOT NULL", quoted).Scan(&r.There); err != nil {
		return fmt.Errorf("look for %s %s: %w", what, name, err)
	}
	if r.There && !d.dry {
		if _, err := d.conn.Exec(ctx, "SET client_min_messages = warning; "+sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			r.Err, r.Fix = fmt.Errorf("drop %s %s: %s", what, name, reason(err)), sql+";"
		}
	}
	d.list = append(d.list, r)
	return nil
}

// views drops the tables of views, or leaves them with their records, so that they are not captured as tables of the source, and a later start goes on with them.
func (d *dropper) views(ctx context.Context, drop bool) error {
	var there bool
	if err := d.conn.QueryRow(ctx, "SELECT to_regclass('walrill.views') IS NOT NULL").Scan(&there); err != nil || !there {
		return err
	}
	rows, err := d.conn.Query(ctx, "SELECT name, schema FROM walrill.views WHERE pipeline = $1 ORDER BY name", d.Pipeline)
	if err != nil {
		return fmt.Errorf("read the views of the store: %w", err)
	}
	type view struct{ Name, Schema string }
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[view])
	if err != nil {
		return fmt.Errorf("read the views of the store: %w", err)
	}
	for _, v := range list {
		table := qualified(v.Schema, v.Name)
		if !drop {
			d.list = append(d.list, Removal{What: "view", Name: v.Name, There: true, Left: "its table stays as it is", Fix: "walrill drop --views"})
			continue
		}
		if err := d.remove(ctx, "view", v.Name, "to_regclass", table, "DROP TABLE "+table); err != nil {
			return err
		}
		if d.list[len(d.list)-1].Err == nil && !d.dry {
			if _, err := d.conn.Exec(ctx, "DELETE FROM walrill.views WHERE name = $1 AND pipeline = $2", v.Name, d.Pipeline); err != nil {
				return fmt.Errorf("forget view %s: %w", v.Name, err)
			}
		}
	}
	if d.dry {
		return nil
	}
	return pgx.BeginFunc(ctx, d.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE walrill.views SET state = 'stopped', request = '', error = '' WHERE pipeline = $1", d.Pipeline); err != nil {
			return fmt.Errorf("stop the views: %w", err)
		}
		if err := forgetKeys(ctx, tx, d.Pipeline); err != nil {
			return err
		}
		for _, table := range ownTables() {
			var ofPipelines bool // and there: an older daemon has not made it
			if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = 'pipeline')", "walrill."+table).Scan(&ofPipelines); err != nil {
				return fmt.Errorf("look for walrill.%s: %w", table, err)
			}
			if table == "views" || !ofPipelines {
				continue
			}
			if _, err := tx.Exec(ctx, "DELETE FROM walrill."+table+" WHERE pipeline = $1", d.Pipeline); err != nil {
				return fmt.Errorf("forget the pipeline in walrill.%s: %w", table, err)
			}
		}
		return nil
	})
}

// ownTables are the tables that walrill makes in the schema walrill of a store.
func ownTables() []string {
	var names []string
	for _, m := range regexp.MustCompile(`CREATE (?:UNLOGGED )?TABLE IF NOT EXISTS walrill\.(\w+)`).FindAllStringSubmatch(installSQL+documentSQL, -1) {
		names = append(names, m[1])
	}
	return names
}

// shared drops what install.sql made, when no pipeline needs it any more. The schema may have others' tables: the keys of data subjects.
func (d *dropper) shared(ctx context.Context, groups []string) error {
	var there, used bool
	if err := d.conn.QueryRow(ctx, "SELECT to_regclass('walrill.pipelines') IS NOT NULL").Scan(&there); err != nil || !there {
		return err
	}
	// Of this pipeline only its views count, and with a dry run those that would be left.
	gone := slices.ContainsFunc(d.list, func(r Removal) bool { return r.What == "view" && (r.Left != "" || r.Err != nil) })
	if err := d.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM walrill.pipelines WHERE pipeline <> ALL ($1)) OR EXISTS (SELECT FROM walrill.views WHERE pipeline <> ALL ($1))`, groups).Scan(&used); err != nil {
		return fmt.Errorf("look for other pipelines in the store: %w", err)
	}
	r := Removal{What: "tables and functions", Name: "of schema walrill", There: true}
	switch {
	case used:
		r.Left = "other pipelines keep views in this store"
	case gone:
		r.Left = "they say what the tables that are left are"
	case !d.dry:
		r.Err = d.dropShared(ctx)
	}
	d.list = append(d.list, r)
	return nil
}

func (d *dropper) dropShared(ctx context.Context) error {
	sql := "SET client_min_messages = warning;"
	for _, table := range ownTables() {
		sql += "DROP TABLE IF EXISTS walrill." + table + ";"
	}
	sql += `DO $$ DECLARE f regprocedure; BEGIN
		FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'walrill'::regnamespace LOOP
			EXECUTE 'DROP FUNCTION ' || f || ' CASCADE';
		END LOOP;
		IF NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = 'walrill'::regnamespace) AND NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = 'walrill'::regnamespace) THEN
			DROP SCHEMA walrill;
		END IF;
	END $$`
	if _, err := d.conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		return fmt.Errorf("drop what walrill made: %s", reason(err))
	}
	return nil
}
