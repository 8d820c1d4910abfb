package projector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Finding is what Check has to say about a subject: the store, or a view. Fix is what mends it, "" when nothing is wrong.
type Finding struct {
	OK           bool
	Subject      string
	Finding, Fix string
}

const minVersion = 140000

// Check looks at everything that keeping the views needs, and changes nothing. A database that cannot be asked is a finding.
func Check(ctx context.Context, o Options) []Finding {
	const subject = "view store"
	conn, err := connect(ctx, o.StoreURL, "check")
	if err != nil {
		return []Finding{{Subject: subject, Finding: err.Error(), Fix: connectFix(err)}}
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it changed nothing
	findings, err := checkStore(ctx, conn, &o)
	if err != nil {
		findings = append(findings, Finding{Subject: subject, Finding: err.Error()})
	}
	if _, err := o.Tables(ctx); err != nil {
		return findings // that is the source's to report
	}
	states, err := viewStates(ctx, conn, Groups(o.Pipeline))
	if err != nil {
		return append(findings, Finding{Subject: subject, Finding: err.Error()})
	}
	planner, err := newPlanner(ctx, conn, &o)
	if err != nil {
		return append(findings, Finding{Subject: subject, Finding: err.Error()})
	}
	for i := range o.Views {
		findings = append(findings, checkView(ctx, planner, &o.Views[i], states[o.Views[i].Name]))
	}
	return findings
}

// checkStore looks at the server, the role's rights and who keeps the views.
func checkStore(ctx context.Context, conn *pgx.Conn, o *Options) ([]Finding, error) {
	const subject = "view store"
	var version int
	var release, database, role string
	var create, temporary, recovery, schema, public bool
	err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_database(), current_user, pg_is_in_recovery(),
		has_database_privilege(current_database(), 'CREATE'), has_database_privilege(current_database(), 'TEMPORARY'),
		to_regnamespace($1) IS NOT NULL, to_regnamespace($1) IS NULL OR has_schema_privilege(to_regnamespace($1)::oid, 'CREATE')`, quoteIdent(o.Schema)).
		Scan(&version, &release, &database, &role, &recovery, &create, &temporary, &schema, &public)
	if err != nil {
		return nil, fmt.Errorf("ask the view store: %w", err)
	}
	var findings []Finding
	fault := func(text, fix string) {
		findings = append(findings, Finding{Subject: subject, Finding: text, Fix: fix})
	}
	switch {
	case version < minVersion:
		fault("Postgres "+release+" is too old", "use Postgres 14 or later")
	case recovery:
		fault("the server is a standby, which takes no writes", "point views.store at the primary")
	default:
		findings = append(findings, Finding{OK: true, Subject: subject, Finding: fmt.Sprintf("Postgres %s, database %s, role %s", release, database, role)})
	}
	if missing := lacking(map[string]bool{"CREATE": create, "TEMPORARY": temporary}); missing != "" {
		fault("role "+role+" lacks "+missing+" on the database", fmt.Sprintf("GRANT %s ON DATABASE %s TO %s;", missing, quoteIdent(database), quoteIdent(role)))
	}
	if schema && !public {
		fault(fmt.Sprintf("role %s may not make tables in the schema %s", role, o.Schema), fmt.Sprintf("GRANT CREATE ON SCHEMA %s TO %s;", quoteIdent(o.Schema), quoteIdent(role)))
	}
	byKey := func(v View) bool { return v.ByKey }
	whole := func(v View) bool { return !v.ByKey }
	for _, group := range []struct {
		name, does string
		has        func(View) bool
	}{{o.Pipeline, "keeps them now", whole}, {KeyGroup(o.Pipeline), "leads those that are kept key by key", byKey}} {
		if !slices.ContainsFunc(o.Views, group.has) {
			continue
		}
		holder, err := lockHolder(ctx, conn, group.name)
		switch {
		case err != nil:
			return findings, err
		case holder == "":
			holder = "nobody"
		}
		findings = append(findings, Finding{OK: true, Subject: "views", Finding: holder + " " + group.does})
	}
	return findings, nil
}

// connectFix says what may help when the store cannot be connected to.
func connectFix(err error) string {
	if e := pgError(err); e != nil {
		switch e.Code {
		case "3D000":
			return "make that database, or correct it in views.store"
		case "28000", "28P01":
			return "make that role with LOGIN and its password, or correct both in views.store"
		}
	}
	return "correct views.store, or start that Postgres"
}

func lacking(rights map[string]bool) string {
	var names []string
	for _, name := range sortedKeys(rights) {
		if !rights[name] {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// lockHolder says who holds the lock of a pipeline's views; "" for nobody.
func lockHolder(ctx context.Context, conn *pgx.Conn, pipeline string) (who string, err error) {
	err = conn.QueryRow(ctx, `SELECT 'process ' || a.pid || coalesce(' from ' || host(a.client_addr), '') || ', since ' || to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') || ','
		FROM pg_locks o JOIN pg_stat_activity a ON a.pid = o.pid
		WHERE o.locktype = 'advisory' AND o.objsubid = 2 AND o.classid = $1 AND o.objid::bigint = (hashtext($2)::bigint & 4294967295) AND o.granted
		  AND o.database = (SELECT oid FROM pg_database WHERE datname = current_database())`, lockClass, pipeline).Scan(&who)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		err = fmt.Errorf("look who keeps the views: %w", err)
	}
	return who, err
}

// viewStates are the states of a pipeline's views, by name; none in a store that walrill has not been to.
func viewStates(ctx context.Context, conn *pgx.Conn, groups []string) (map[string]string, error) {
	states := map[string]string{}
	var there bool
	if err := conn.QueryRow(ctx, "SELECT to_regclass('walrill.views') IS NOT NULL").Scan(&there); err != nil || !there {
		return states, err
	}
	rows, err := conn.Query(ctx, "SELECT name, state || coalesce(nullif(': ' || error, ': '), '') FROM walrill.views WHERE pipeline = ANY ($1)", groups)
	if err != nil {
		return nil, fmt.Errorf("read the views of the store: %w", err)
	}
	var name, state string
	if _, err := pgx.ForEachRow(rows, []any{&name, &state}, func() error { states[name] = state; return nil }); err != nil {
		return nil, fmt.Errorf("read the views of the store: %w", err)
	}
	return states, nil
}

// checkView says which streams a view reads, or what is missing.
func checkView(ctx context.Context, p *planner, v *View, state string) Finding {
	subject := "view " + v.Name
	d, err := p.plan(ctx, v)
	table := qualified(p.opts.Schema, v.Name)
	if err == nil && state == "" {
		err = free(ctx, p.conn, v.Name, table)
	}
	var setup *SetupError
	switch {
	case errors.As(err, &setup):
		fix := setup.Fix
		if setup.Where != "" {
			fix = strings.TrimSuffix(setup.Where+": "+fix, ": ")
		}
		return Finding{Subject: subject, Finding: setup.Problem, Fix: fix}
	case err != nil:
		return Finding{Subject: subject, Finding: err.Error()}
	}
	var reads []string
	for _, m := range d.Mirrors {
		reads = append(reads, fmt.Sprintf("%s from stream %s", m.Source, m.Stream))
	}
	if d.folds() {
		for _, stream := range d.Fold.Streams {
			reads = append(reads, "stream "+stream)
		}
	}
	slices.Sort(reads)
	if state == "" {
		state = "not made yet"
	}
	return Finding{OK: true, Subject: subject, Finding: d.Kind + " of " + strings.Join(slices.Compact(reads), ", ") + "; " + state}
}
