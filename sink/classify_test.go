package sink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"github.com/walrill/walrill/event"
)

func TestKindOf(t *testing.T) {
	for text, want := range map[string]kind{
		"OOM command not allowed when used memory > 'maxmemory'.":                                      kindOOM,
		"READONLY You can't write against a read only replica.":                                        kindReadonly,
		"UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)": kindReadonly,
		"LOADING Redis is loading the dataset in memory":                                               kindLoading,
		"MISCONF Redis is configured to save RDB snapshots":                                            kindMisconf,
		"NOPERM User default has no permissions to run the 'multi' command":                            kindNoPerm,
		"WRONGTYPE Operation against a key holding the wrong kind of value":                            kindWrongType,
		"CLUSTERDOWN Hash slot not served":                                                             kindClusterDown,
		"MOVED 1 127.0.0.1:7000":                                                                       kindMoved,
		"NOAUTH Authentication required.":                                                              kindNoAuth,
		"WRONGPASS invalid username-password pair or user is disabled.":                                kindNoAuth,
		"ERR AUTH <password> called without any password configured for the default user.":             kindNoAuth,
		"ERR Client sent AUTH, but no password is set":                                                 kindNoAuth,
		"NOREPLICAS Not enough good replicas to write.":                                                kindNoReplicas,
		"EXECABORT Transaction discarded because of previous errors.":                                  kindOther,
		"EXECABORT Transaction discarded because of: OOM command not allowed":                          kindOOM,
		"ERR unknown command": kindOther,
		"":                    kindOther,
	} {
		if got := kindOf(fmt.Errorf("stream orders: %w", replyError(text))); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
	for want, err := range map[kind]error{
		kindTimeout:    &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded},
		kindConnection: &net.OpError{Op: "dial", Err: errors.New("connection refused")},
		kindNoReplicas: fmt.Errorf("x: %w", errShort),
		kindForeign:    fmt.Errorf("x: %w", errForeign),
		kindOther:      fmt.Errorf("x: %w", errProtocol),
	} {
		if got := kindOf(fmt.Errorf("send: %w", err)); got != want {
			t.Errorf("%v is %s, want %s", err, got, want)
		}
	}
	if kindOf(io.EOF) != kindConnection || kindOf(context.DeadlineExceeded) != kindTimeout {
		t.Error("end of file, or a context's deadline")
	}
	for _, err := range []error{ErrTailLost{}, fmt.Errorf("x: %w", ErrDiverged{})} {
		if !fatal(err) {
			t.Errorf("%T is not fatal", err)
		}
	}
	if fatal(replyError("OOM")) {
		t.Error("OOM is fatal")
	}
}

func TestParseTop(t *testing.T) {
	entry := func(id string, fields ...any) []any { return []any{id, fields} }
	tests := map[string]struct {
		reply any
		want  top
		err   error
	}{
		"no key":         {replyError("ERR no such key"), top{seqKnown: true}, nil},
		"never written":  {[]any{"last-generated-id", "0-0", "last-entry", nil}, top{seqKnown: true}, nil},
		"ours":           {[]any{"length", int64(3), "last-generated-id", "7-2", "last-entry", entry("7-2", "type", "a", "seq", "41")}, top{event.Position{Commit: 7, Ordinal: 2}, 41, true}, nil},
		"trimmed, 7.0":   {[]any{"last-generated-id", "7-2", "entries-added", int64(41), "last-entry", nil}, top{event.Position{Commit: 7, Ordinal: 2}, 41, true}, nil},
		"trimmed, 6.2":   {[]any{"last-generated-id", "7-2", "last-entry", nil}, top{event.Position{Commit: 7, Ordinal: 2}, 0, false}, nil},
		"last deleted":   {[]any{"last-generated-id", "7-2", "entries-added", int64(41), "last-entry", entry("7-1", "seq", "40")}, top{event.Position{Commit: 7, Ordinal: 2}, 41, true}, nil},
		"another's":      {[]any{"last-generated-id", "7-2", "last-entry", entry("7-2", "hello", "world")}, top{}, errForeign},
		"another's seq":  {[]any{"last-generated-id", "7-2", "last-entry", entry("7-2", "seq", "one")}, top{}, errForeign},
		"wrong type":     {replyError("WRONGTYPE Operation against a key"), top{}, replyError("WRONGTYPE Operation against a key")},
		"not an ID":      {[]any{"last-generated-id", "x"}, top{}, nil},
		"not even a map": {"OK", top{}, nil},
	}
	for name, tc := range tests {
		got, err := parseTop("orders", tc.reply)
		if got != tc.want || tc.err != nil && !errors.Is(err, tc.err) || (err == nil) != (tc.want != top{}) {
			t.Errorf("%s: %+v, %v; want %+v, %v", name, got, err, tc.want, tc.err)
		}
	}
}

func TestConfirmed(t *testing.T) {
	e := &entry{pos: event.Position{Commit: 7, Ordinal: 2}, seq: 41}
	found := func(id, seq string) any { return []any{[]any{id, []any{"seq", seq}}} }
	info := func(id string, added int64) any { return []any{"last-generated-id", id, "entries-added", added} }
	tests := map[string]struct {
		below, info any
		retried     bool // the error is not fatal
		fatal       bool
	}{
		"it is there":                         {found("7-2", "41"), info("9-1", 50), false, false},
		"trimmed since":                       {[]any{}, info("9-1", 50), false, false},
		"deleted since":                       {found("7-1", "40"), info("7-2", 41), false, false},
		"with another seq":                    {found("7-2", "40"), info("9-1", 50), false, true},
		"another one behind it":               {found("7-9", "42"), info("9-1", 50), false, true},
		"never there":                         {found("7-1", "40"), info("7-1", 40), true, false},
		"the last ID was set up":              {found("7-1", "40"), info("99-1", 40), true, false},
		"another's entry, deleted":            {found("7-1", "40"), info("99-1", 41), true, false},
		"another's entry":                     {[]any{[]any{"7-2", []any{"a", "b"}}}, info("9-1", 50), true, false},
		"it cannot be looked up":              {replyError("NOPERM"), info("9-1", 50), true, false},
		"the stream cannot be looked up":      {found("7-2", "41"), replyError("LOADING"), true, false},
		"a stream that is gone in the middle": {[]any{}, replyError("ERR no such key"), true, false},
	}
	for name, tc := range tests {
		part := newPartition("orders")
		part.sent.refused = e
		err := confirmed(part, tc.below, tc.info)
		if fatal(err) != tc.fatal || (err != nil && !fatal(err)) != tc.retried {
			t.Errorf("%s: %v", name, err)
		}
	}
}
