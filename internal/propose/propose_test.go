package propose

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/internal/harness"
)

var update = flag.Bool("update", false, "rewrite the facts and files of testdata")

func TestMain(m *testing.M) { harness.Main(m) }

// names are the schemas of testdata: NAME.sql makes one, NAME.json is what Read says of it, and NAME.yaml
// the file that is proposed.
func names(t *testing.T) []string {
	files, err := filepath.Glob("testdata/*.sql")
	if err != nil || len(files) < 7 {
		t.Fatalf("%d schemas: %v", len(files), err)
	}
	var all []string
	for _, file := range files {
		all = append(all, strings.TrimSuffix(filepath.Base(file), ".sql"))
	}
	return all
}

func TestRead(t *testing.T) {
	pg := harness.SharedPostgres(t, 0)
	for _, name := range names(t) {
		t.Run(name, func(t *testing.T) {
			url := harness.Database(t, pg)
			harness.Exec(t, url, string(content(t, "testdata/"+name+".sql")))
			conn, err := pgx.Connect(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			got, err := Read(t.Context(), conn)
			if err != nil {
				t.Fatal(err)
			}
			if got.Database != harness.DatabaseName(t, url) || got.Version < 140000 || got.WALLevel != "logical" {
				t.Errorf("read %s, version %d, wal_level %s", got.Database, got.Version, got.WALLevel)
			}
			got.Database, got.Version = name, 170000
			var text bytes.Buffer
			encoder := json.NewEncoder(&text)
			encoder.SetEscapeHTML(false)
			encoder.SetIndent("", " ")
			if err := encoder.Encode(got); err != nil {
				t.Fatal(err)
			}
			golden(t, "testdata/"+name+".json", text.String())
		})
	}
}

func TestFile(t *testing.T) {
	for _, name := range names(t) {
		t.Run(name, func(t *testing.T) {
			var c Catalogue
			if err := json.Unmarshal(content(t, "testdata/"+name+".json"), &c); err != nil {
				t.Fatal(err)
			}
			p := File(&c, Options{Sink: "redis://localhost:6379/0"})
			golden(t, "testdata/"+name+".yaml", p.Text)
			parse(t, p.Text)
			parse(t, proposal.ReplaceAllString(p.Text, "$1$2")) // and all proposals taken
			if want := len(matching(c.Tables, nil)); p.Tables+p.Left != want {
				t.Errorf("%d captured and %d left out of %d tables", p.Tables, p.Left, want)
			}
		})
	}
}

var proposal = regexp.MustCompile(`(?m)^( *)#([^ #\n].*)$`)

// Whatever names there are, the file can be read, holds every table once, and reads right again.
func TestAnyNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.StringMatching(`[a-z_]{1,12}`), rapid.StringN(1, 20, 63))
		column := rapid.Custom(func(t *rapid.T) Column {
			c := Column{Name: name.Draw(t, "column"), NotNull: true, Identity: rapid.Bool().Draw(t, "identity")}
			if rapid.Bool().Draw(t, "status") {
				c.Name, c.Values = "status", rapid.SliceOf(rapid.String()).Draw(t, "values")
			}
			return c
		})
		c := Catalogue{Database: rapid.StringN(1, 30, 63).Draw(t, "database")}
		seen := map[string]bool{}
		for range rapid.IntRange(0, 5).Draw(t, "tables") {
			table := Table{Schema: "public", Name: name.Draw(t, "table"), Kind: 'r', Identity: 'd', Rows: rapid.Float64Range(-1, 1e9).Draw(t, "rows"),
				Columns: rapid.SliceOfNDistinct(column, 1, 4, func(c Column) string { return c.Name }).Draw(t, "columns")}
			for _, other := range c.Tables {
				table.ForeignKeys = append(table.ForeignKeys, ForeignKey{Columns: []string{table.Columns[0].Name}, Table: other.String(),
					RefColumns: []string{other.Columns[0].Name}, Cascade: rapid.Bool().Draw(t, "cascade")})
			}
			if !seen[table.Name] {
				seen[table.Name] = true
				c.Tables = append(c.Tables, table)
			}
		}
		p := File(&c, Options{Sink: "redis://localhost:6379/0", Patterns: []string{"public.*"}})
		cfg, err := config.Parse("p.yaml", []byte(p.Text), environment)
		if err != nil {
			t.Fatalf("%v\n%s", err, p.Text)
		}
		if p.Tables == 0 {
			return
		}
		for _, s := range cfg.Streams {
			for _, table := range s.Tables {
				if name := strings.TrimPrefix(table.Pattern, "public."); !seen[name] {
					t.Fatalf("table %q is not there, or twice\n%s", name, p.Text)
				} else {
					delete(seen, name)
				}
			}
		}
		if len(seen) != p.Left {
			t.Fatalf("left out %d, want %d\n%s", len(seen), p.Left, p.Text)
		}
	})
}

func environment(name string) (string, bool) {
	return "postgres://h/d-of-16-bytes", name == "DATABASE_URL" || name == "MASK_KEY"
}

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("p.yaml", []byte(text), environment)
	if err != nil {
		t.Errorf("%v\n%s", err, text)
	}
	return cfg
}

func TestWords(t *testing.T) {
	for table, want := range map[string]string{
		"orders": "order", "order_items": "order_item", "OrderLines": "order_line", "Order Notes": "order_note", "categories": "category",
		"addresses": "address", "statuses": "status", "boxes": "box", "news": "news", "status": "status", "analysis": "analysis", "s": "s", "people": "people",
		"batches": "batch", "HTTPLogs": "httplog", "houses": "house", "!": "row",
	} {
		if got := entity(table); got != want {
			t.Errorf("a row of %s is %s, want %s", table, got, want)
		}
	}
	for column, want := range map[string]bool{
		"email": true, "customer_email": true, "e_mail": true, "emailAddress": true, "phone": true, "first_name": true, "ip": true, "last_ip": true, "ip_address": true,
		"dob": true, "date_of_birth": true, "iban": true, "password_hash": true, "api_key": true, "national_id": true, "street2": false,
		"shipping": false, "email_verified_at": false, "phone_id": false, "description": false, "zip_id": false, "address_id": false, "tip": false, "name": false,
	} {
		if got := isPersonal("orders", column); got != want {
			t.Errorf("%s is personal: %t", column, got)
		}
	}
	if !isPersonal("users", "name") || !isPersonal("app_customers", "Name") || isPersonal("products", "name") {
		t.Error("a name is personal in a table of people only")
	}
}

func TestChoices(t *testing.T) {
	for check, want := range map[string]string{
		`CHECK ((status = ANY (ARRAY['new'::text, 'it''s'::text])))`:                                       "new,it's",
		`CHECK (((status)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[])))`: "a,b",
		`CHECK ((status <> ALL (ARRAY['new'::text])))`:                                                     "",
		`CHECK ((status <> ''::text))`:                                                                     "",
		`CHECK (((status = ANY (ARRAY['a'::text])) AND (length(status) < 3)))`:                             "",
		`CHECK ((NOT (status = ANY (ARRAY['a'::text]))))`:                                                  "",
		`CHECK ((VALUE = ANY (ARRAY['open AND shut'::text, 'NOT '::text])))`:                               "open AND shut,NOT ",
	} {
		c := Column{Checks: []string{check}}
		if got := strings.Join(c.choices(), ","); got != want {
			t.Errorf("%s: %s, want %s", check, got, want)
		}
	}
}

func content(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return data
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(content(t, file)), got); diff != "" {
		t.Errorf("%s (-want +got), -update rewrites it:\n%s", file, diff)
	}
}
