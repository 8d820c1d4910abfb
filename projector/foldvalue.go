package projector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walrill/walrill/event"
)

// A Refusal says that an event cannot be applied to a view, and that trying again is of no use: its key is parked. The
// function of a view in Go returns one, with Refuse; errors of Postgres about values are refusals by themselves.
type Refusal struct{ Err error }

func (e *Refusal) Error() string { return e.Err.Error() }
func (e *Refusal) Unwrap() error { return e.Err }

// Refuse says that an event cannot be applied, because of err. The key of the event is set aside.
func Refuse(err error) error { return &Refusal{err} }

func refuse(format string, args ...any) error { return &Refusal{fmt.Errorf(format, args...)} }

// shapes of a parameter's type.
const (
	shapeText  = iota // the text of a value
	shapeJSON         // JSON as it is
	shapeArray        // a JSON list becomes an array
)

// foldStatement is prepared SQL for events of a type.
type foldStatement struct {
	name   string // of the prepared statement
	params []param
	shapes []int
}

// prepare prepares a statement in a session. What its names mean is by the search path of now.
func (st *foldStatement) prepare(ctx context.Context, conn *pgx.Conn, sql string) (*pgconn.StatementDescription, error) {
	d, err := conn.Prepare(ctx, st.name, sql)
	if err != nil {
		return nil, err
	}
	rows, err := conn.Query(ctx, "SELECT oid FROM pg_type WHERE oid = ANY ($1) AND typcategory = 'A'", d.ParamOIDs)
	if err != nil {
		return nil, fmt.Errorf("look up types: %w", err)
	}
	arrays, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	if err != nil {
		return nil, fmt.Errorf("look up types: %w", err)
	}
	st.shapes = make([]int, len(d.ParamOIDs))
	for i, oid := range d.ParamOIDs {
		switch {
		case oid == 114 || oid == 3802: // json, jsonb
			st.shapes[i] = shapeJSON
		case slices.Contains(arrays, oid):
			st.shapes[i] = shapeArray
		}
	}
	return d, nil
}

// args are the statement's arguments for an event: text that Postgres reads by the parameters' types, or nil. A value that
// Postgres did not send is a *Refusal.
func (st *foldStatement) args(e *event.Event) ([]any, error) {
	args := make([]any, len(st.params))
	for i, p := range st.params {
		raw, plain, err := p.of(e)
		switch {
		case err != nil:
			return nil, err
		case raw != nil:
			if args[i], err = jsonArg(raw, st.shapes[i]); err != nil {
				return nil, refuse("%s: %w", p, err)
			}
		case st.shapes[i] == shapeJSON:
			quoted, _ := json.Marshal(plain) // of a string: never fails
			args[i] = string(quoted)
		default:
			args[i] = plain
		}
	}
	return args, nil
}

// of is a parameter's value: JSON, or plain text. Both are empty for what is not there.
func (p param) of(e *event.Event) (raw []byte, plain string, err error) {
	switch p.root {
	case "data":
		raw, err = member(e.Data, p.path)
		if err == nil && raw == nil && len(p.path) > 0 && len(e.Unchanged) > 0 {
			err = p.sent(e)
		}
	case "old":
		raw, err = member(e.Old, p.path)
	case "headers":
		raw, err = member(e.Headers, p.path)
	case "key":
		plain = string(e.Key)
	case "type":
		plain = e.Type
	case "op":
		plain = string(e.Op)
	case "table":
		plain = e.Table
	case "stream":
		plain = e.Stream.Name
	case "time":
		plain = e.Time.UTC().Format(event.TimeFormat)
	case "tx":
		plain = strconv.FormatUint(uint64(e.Tx), 10)
	case "id":
		plain = e.Position.ID()
	case "lsn":
		_, lsn := event.SplitClock(e.Position.Commit)
		plain = fmt.Sprintf("%X/%X", uint32(lsn>>32), uint32(lsn))
	}
	if err == nil && p.hasPath() && raw == nil {
		raw = []byte("null")
	}
	return raw, plain, err
}

// sent refuses a member that is missing because Postgres did not send it.
func (p param) sent(e *event.Event) error {
	var unchanged []string
	if err := json.Unmarshal(e.Unchanged, &unchanged); err != nil {
		return fmt.Errorf("read unchanged of the entry at %v: %w", e.Position, err)
	}
	if contains(unchanged, p.path[0]) {
		return refuse("Postgres did not send the value of %s, which is large and did not change; ALTER TABLE %s REPLICA IDENTITY FULL has it sent", p.path[0], e.Table)
	}
	return nil
}

// member is a member of a JSON object, or of an object in it; nil when there is none.
func member(data []byte, path []string) ([]byte, error) {
	if len(data) == 0 {
		return nil, nil
	}
	for _, name := range path {
		var found []byte
		err := eachField(data, func(n, value []byte) {
			if string(n) == name {
				found = value
			}
		})
		if errors.Is(err, errObject) || found == nil {
			return nil, nil //nolint:nilerr // what is no object has no members
		}
		if err != nil {
			return nil, refuse("its data cannot be read: %w", err)
		}
		data = found
	}
	return data, nil
}

// jsonArg makes an argument of a JSON value.
func jsonArg(raw []byte, shape int) (any, error) {
	switch {
	case string(raw) == "null":
		return nil, nil
	case shape == shapeJSON:
		return string(raw), nil
	case raw[0] == '"':
		var text string
		err := json.Unmarshal(raw, &text)
		return text, err
	case raw[0] == '[' && shape == shapeArray:
		var list []json.RawMessage
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, err
		}
		return arrayLiteral(list)
	}
	return string(raw), nil
}

// arrayLiteral writes a list as Postgres reads an array.
func arrayLiteral(list []json.RawMessage) (string, error) {
	parts := make([]string, len(list))
	for i, raw := range list {
		v, err := jsonArg(raw, shapeArray)
		if err != nil {
			return "", err
		}
		text, ok := v.(string)
		switch {
		case !ok:
			parts[i] = "NULL"
		case raw[0] == '[':
			parts[i] = text
		default:
			parts[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
		}
	}
	return "{" + strings.Join(parts, ",") + "}", nil
}
