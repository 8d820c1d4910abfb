package sink

import (
	"bufio"
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func readFrom(b []byte) *conn { return &conn{r: bufio.NewReaderSize(bytes.NewReader(b), 64)} }

func TestReply(t *testing.T) {
	for wire, want := range map[string]any{
		"+OK\r\n":                             "OK",
		"-ERR no\r\n":                         replyError("ERR no"),
		":-42\r\n":                            int64(-42),
		"$-1\r\n":                             nil,
		"*-1\r\n":                             nil,
		"$0\r\n\r\n":                          "",
		"$4\r\n\r\n\r\n\r\n":                  "\r\n\r\n",
		"*3\r\n:1\r\n*1\r\n$1\r\na\r\n-E\r\n": []any{int64(1), []any{"a"}, replyError("E")},
		"$100\r\n" + strings.Repeat("x", 100) + "\r\n": strings.Repeat("x", 100),
	} {
		if got, err := readFrom([]byte(wire)).reply(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %#v, %v; want %#v", wire, got, err, want)
		}
	}
	for _, wire := range []string{"", "+OK", "\r\n", "+\n", ":x\r\n", "$-2\r\n", "$3\r\nab", "$999999999999\r\n", "*99999999\r\n", "%1\r\n", "*1\r\n",
		strings.Repeat("*1\r\n", 100), "+" + strings.Repeat("x", 100) + "\r\n"} {
		if got, err := readFrom([]byte(wire)).reply(); err == nil {
			t.Errorf("%q: %#v", wire, got)
		}
	}
}

// No bytes make the readers panic, hang or allocate without bound.
func FuzzReply(f *testing.F) {
	f.Add([]byte("*2\r\n$1\r\na\r\n:1\r\n"))
	f.Add([]byte("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$3\r\n1-1\r\n-ERR The ID specified in XADD is equal or smaller than the target stream top item\r\n"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		readFrom(wire).reply()
		part := newPartition("orders")
		v := verdict{attempt: 1, c: readFrom(wire)}
		if err := v.transaction([]entry{{part: part}, {part: part}}); err != nil && errors.Is(err, errProtocol) && len(wire) == 0 {
			t.Error(err)
		}
	})
}
