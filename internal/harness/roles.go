package harness

import (
	"fmt"
	"net/url"
	"testing"
)

// Roles are the URLs of one database for who works on it.
type Roles struct {
	Admin  string // the superuser
	Owner  string // owns the database and what it makes; may see every session
	Daemon string // what docs/operations.md asks for, and no more
}

// DatabaseWithRoles makes a fresh database with an owner, and a role for the daemon: LOGIN REPLICATION, a member
// of the owner, so that the publication can be made.
func DatabaseWithRoles(t testing.TB, pg *Postgres) Roles {
	t.Helper()
	var roles []string
	t.Cleanup(func() { // after the database is gone
		if pg.Pid() == 0 {
			return
		}
		for _, role := range roles {
			Exec(t, pg.URL("postgres"), "DROP ROLE IF EXISTS "+role)
		}
	})
	admin := Database(t, pg)
	name := DatabaseName(t, admin)
	roles = []string{name + "_daemon", name + "_owner"}
	return MakeRoles(t, admin)
}

// MakeRoles is the part of DatabaseWithRoles for a database that is there, in a cluster that goes with the test.
func MakeRoles(t testing.TB, admin string) Roles {
	t.Helper()
	name := DatabaseName(t, admin)
	owner, daemon := name+"_owner", name+"_daemon"
	Exec(t, admin, "SET synchronous_commit = local", // a scenario may have a standby that never answers
		fmt.Sprintf("CREATE ROLE %s LOGIN CREATEROLE", owner),
		fmt.Sprintf("GRANT pg_monitor, pg_signal_backend TO %s", owner),
		fmt.Sprintf("ALTER DATABASE %s OWNER TO %s", name, owner),
		fmt.Sprintf("CREATE ROLE %s LOGIN REPLICATION", daemon),
		fmt.Sprintf("GRANT CONNECT, CREATE ON DATABASE %s TO %s", name, daemon),
		fmt.Sprintf("GRANT %s TO %s", owner, daemon))
	return Roles{Admin: admin, Owner: As(t, admin, owner), Daemon: As(t, admin, daemon)}
}

// As is a database's URL for another role, which needs no password.
func As(t testing.TB, dbURL, role string) string {
	t.Helper()
	u, err := url.Parse(dbURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	return u.String()
}

// At is the same roles on another server, given by its host:port.
func (r Roles) At(t testing.TB, addr string) Roles {
	t.Helper()
	for _, role := range []*string{&r.Admin, &r.Owner, &r.Daemon} {
		u, err := url.Parse(*role)
		if err != nil {
			t.Fatal(err)
		}
		u.Host = addr
		*role = u.String()
	}
	return r
}
