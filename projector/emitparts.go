package projector

import (
	"fmt"
	"strings"
)

// A source transaction that is too large to be gathered is written to a mirror in parts, in which a row may change several times. What a mirror
// emits is of the whole transaction: so while parts are written, the trigger notes of each row what it was before the first of them and what
// it is by now, in a temporary table, and behind the last one a function says what is to be said.

// placePart stands for the place while parts are written.
const placePart = "part"

func partsTable(view string) string { return qualified("pg_temp", "part~"+view) }

func partsFunction(o *Options, view string) string {
	return qualified(mirrorSchema(o.Pipeline), "part~"+view)
}

// makeParts makes the temporary table. It stands as long as the source transaction is written.
func (m *mirror) makeParts() string {
	columns := make([]string, len(m.Columns))
	for i, c := range m.Columns {
		columns[i] = quoteIdent(c.As) + " " + c.sql()
	}
	var key []string
	for i, c := range m.Columns {
		for _, k := range m.keyAs() {
			if c.As == k {
				key = append(key, columns[i])
			}
		}
	}
	return fmt.Sprintf(`CREATE TEMP TABLE %s (%s, "walrill n" bigint GENERATED ALWAYS AS IDENTITY, "walrill was" %[3]s, "walrill is" %[3]s, PRIMARY KEY (%[4]s)) ON COMMIT DROP`,
		quoteIdent("part~"+m.Name), strings.Join(key, ", "), m.table, list("%s", m.keyAs()))
}

// notePart is what the trigger does while parts are written.
func (v *View) notePart(o *Options, d *definition) string {
	if d.Kind != "mirror" {
		return ""
	}
	return fmt.Sprintf(`  IF walrill_place = %s THEN
    DECLARE walrill_old %[2]s; walrill_new %[2]s;
    BEGIN
      IF TG_OP <> 'INSERT' THEN walrill_old := old; END IF;
      IF TG_OP <> 'DELETE' THEN walrill_new := new; END IF;
      INSERT INTO %[3]s (%[4]s, "walrill was", "walrill is") VALUES (%[5]s, walrill_old, walrill_new)
        ON CONFLICT (%[4]s) DO UPDATE SET "walrill is" = excluded."walrill is";
      RETURN NULL;
    END;
  END IF;
`, literal(placePart), qualified(o.Schema, v.Name), partsTable(v.Name), list("%s", d.Key), list("coalesce(walrill_new.%s, walrill_old.%s)", d.Key))
}

// partsBody is the function that says what parts have come to.
func (v *View) partsBody(o *Options, d *definition, forms []form) string {
	return fmt.Sprintf(`DECLARE
  walrill_place text := current_setting('walrill.place'); walrill_row record; old %[1]s; new %[1]s; walrill_op text;
BEGIN
FOR walrill_row IN SELECT p."walrill was" AS was, p."walrill is" AS now FROM %[2]s p ORDER BY p."walrill n" LOOP
  old := walrill_row.was;
  new := walrill_row.now;
  walrill_op := CASE WHEN old IS NULL THEN 'I' WHEN new IS NULL THEN 'D' ELSE 'U' END;
  CONTINUE WHEN old IS NULL AND new IS NULL OR old *= new;
%[3]sEND LOOP;
END`, qualified(o.Schema, v.Name), partsTable(v.Name), v.emitSQL(o, d, forms, "walrill_op"))
}
