package propose

import (
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/walrill/walrill/change"
)

// words cuts a name into lower-case words: order_items, OrderItems and "Order Items" are alike.
func words(name string) []string {
	var b strings.Builder
	var last rune
	for _, c := range name {
		if unicode.IsUpper(c) && (unicode.IsLower(last) || unicode.IsDigit(last)) {
			b.WriteByte(' ')
		}
		last = c
		if unicode.IsLetter(c) || unicode.IsDigit(c) {
			b.WriteRune(unicode.ToLower(c))
		} else {
			b.WriteByte(' ')
		}
	}
	return strings.Fields(b.String())
}

// singular makes of an English plural what its rows are called; other words it leaves alone.
func singular(word string) string {
	for _, rule := range []struct{ end, put string }{
		{"news", "news"}, {"series", "series"}, {"ies", "y"}, {"sses", "ss"}, {"tuses", "tus"}, {"xes", "x"}, {"ches", "ch"}, {"shes", "sh"},
		{"ss", "ss"}, {"us", "us"}, {"is", "is"}, {"s", ""},
	} {
		if stem, ok := strings.CutSuffix(word, rule.end); ok && (len(stem) > 1 || rule.end == rule.put) {
			return stem + rule.put
		}
	}
	return word
}

// entity is what one row of a table is called: order_item of order_items.
func entity(table string) string {
	w := words(table)
	if len(w) == 0 {
		return "row"
	}
	w[len(w)-1] = singular(w[len(w)-1])
	return strings.Join(w, "_")
}

// partByName reports whether the child's name says that it is a part of the parent, as order_items of orders.
func partByName(child, parent string) bool {
	c, p := words(child), words(parent)
	if len(p) == 0 || len(c) <= len(p) {
		return false
	}
	for i := range p {
		if singular(c[i]) != singular(p[i]) {
			return false
		}
	}
	return true
}

var (
	// What most tables of many tenants carry, and what the tenants' own table is called.
	tenantColumns = []string{"tenant_id", "org_id", "organization_id", "organisation_id", "workspace_id", "company_id"}
	tenantTables  = []string{"tenant", "org", "organization", "organisation", "workspace", "company"}

	migrationTables = []string{"__diesel_schema_migrations", "__EFMigrationsHistory", "_prisma_migrations", "_sqlx_migrations", "alembic_version",
		"ar_internal_metadata", "atlas_schema_revisions", "databasechangelog", "databasechangeloglock", "django_migrations",
		"doctrine_migration_versions", "flyway_schema_history", "goose_db_version", "gorp_migrations", "knex_migrations", "knex_migrations_lock",
		"migrations", "pgmigrations", "river_migration", "schema_migrations", "schema_version", "SequelizeMeta", "typeorm_metadata"}

	statusNames = []string{"status", "state", "phase", "stage"}

	peopleTables = []string{"account", "applicant", "author", "candidate", "client", "contact", "customer", "driver", "employee", "guest",
		"lead", "member", "patient", "people", "person", "profile", "recipient", "student", "subscriber", "teacher", "user"}
)

func isTenants(table string) bool { return slices.Contains(tenantTables, entity(table)) }

// isStatus reports whether a column's name says that it holds where a row stands.
func isStatus(column string) bool {
	w := words(column)
	return len(w) > 0 && slices.Contains(statusNames, w[len(w)-1])
}

// The names are matched as words with _ between them and around, so that ip is not found in shipping.
var (
	secretName   = regexp.MustCompile(`_(password|passwd|pwd|secret|api_key|private_key|token|otp|pin|cvv|cvc)_`)
	personalName = regexp.MustCompile(`_(e_?mail|phone|mobile|telephone|fax|first_?name|last_?name|full_?name|surname|given_name|family_name|middle_name|` +
		`maiden_name|address|street|zip|zip_?code|post_?code|postal_code|birth|birthday|birth_?date|dob|ssn|social_security|national_id|` +
		`passport|tax_id|iban|account_number|card_number|credit_card|ip|ip_?addr|latitude|longitude|gender|nationality)_`)
	notPersonal = regexp.MustCompile(`_(at|on|count|verified|confirmed|enabled|type|id|status)_$`) // email_verified_at, address_id
)

// isPersonal reports whether a column's name, in this table, looks like that of somebody's data, or of a secret.
func isPersonal(table, column string) bool {
	name := "_" + strings.Join(words(column), "_") + "_"
	if secretName.MatchString(name) {
		return true
	}
	if name == "_name_" {
		w := words(table)
		return len(w) > 0 && (slices.Contains(peopleTables, w[len(w)-1]) || slices.Contains(peopleTables, singular(w[len(w)-1])))
	}
	exact := strings.HasSuffix(name, "national_id_") || strings.HasSuffix(name, "tax_id_")
	return personalName.MatchString(name) && (exact || !notPersonal.MatchString(name))
}

// literalForm finds the texts of a constraint or default as Postgres prints it.
var literalForm = regexp.MustCompile(`'((?:[^']|'')*)'`)

func literals(sql string) []string {
	var found []string
	for _, m := range literalForm.FindAllStringSubmatch(sql, -1) {
		found = append(found, strings.ReplaceAll(m[1], "''", "'"))
	}
	return found
}

// choices are the values that a column may have, as its enum or a check constraint says; nil when neither does.
func (c *Column) choices() []string {
	if len(c.Values) > 0 {
		return c.Values
	}
	for _, check := range c.Checks {
		plain := literalForm.ReplaceAllString(check, "")
		if strings.Contains(plain, "= ANY (") && strings.Contains(plain, "ARRAY[") && !strings.Contains(plain, " AND ") && !strings.Contains(plain, "NOT ") {
			return literals(check)
		}
	}
	return nil
}

// initial is the text that a column's default is, or "" when it is none.
func (c *Column) initial() string {
	if found := literals(c.Default); len(found) == 1 && strings.HasPrefix(c.Default, "'") {
		return found[0]
	}
	return ""
}

// statusColumn is the column that tells where a row stands: one of that name, best with known values.
func (t *Table) statusColumn() *Column {
	var best *Column
	for i := range t.Columns {
		c := &t.Columns[i]
		if isStatus(c.Name) && !badName(c.Name) && (best == nil || best.choices() == nil && c.choices() != nil) {
			best = c
		}
	}
	return best
}

// personalColumns are those that look like somebody's data or a secret, but for those that link rows:
// of keys and of the replica identity.
func (t *Table) personalColumns() []string {
	linking := slices.Clone(t.PrimaryKey)
	for _, f := range t.ForeignKeys {
		linking = append(linking, f.Columns...)
	}
	var names []string
	for i := range t.Columns {
		c := &t.Columns[i]
		if c.Identity && t.Identity != change.IdentityFull || slices.Contains(linking, c.Name) {
			continue
		}
		if isPersonal(t.Name, c.Name) && !badName(c.Name) {
			names = append(names, c.Name)
		}
	}
	return names
}
