package sink

import (
	"fmt"
	"io"
	"strconv"
)

const (
	maxBulk  = 512 << 20 // Redis's own proto-max-bulk-len
	maxArray = 1 << 20
	maxDepth = 8
)

// reply reads any RESP 2 reply: string, int64, []any, replyError, or nil. It
// allocates; the replies of a batch are read line by line instead.
func (c *conn) reply() (any, error) { return c.replyAt(0) }

func (c *conn) replyAt(depth int) (any, error) {
	line, err := c.line()
	if err != nil {
		return nil, err
	}
	kind, rest := line[0], string(line[1:])
	switch kind {
	case '+':
		return rest, nil
	case '-':
		return replyError(rest), nil
	}
	n, err := strconv.ParseInt(rest, 10, 64)
	if err != nil {
		return nil, c.malformed(kind, rest)
	}
	switch {
	case kind == ':':
		return n, nil
	case n == -1 && (kind == '$' || kind == '*'):
		return nil, nil
	case kind == '$' && n >= 0 && n <= maxBulk:
		return c.bulk(int(n))
	case kind == '*' && n >= 0 && n <= maxArray && depth < maxDepth:
		return c.array(int(n), depth)
	}
	return nil, c.malformed(kind, rest)
}

func (c *conn) malformed(kind byte, rest string) error {
	return fmt.Errorf("receive from Redis at %s: %w: %q", c.addr, errProtocol, string(kind)+rest)
}

func (c *conn) bulk(n int) (any, error) {
	b := make([]byte, n+2)
	if _, err := io.ReadFull(c.r, b); err != nil {
		return nil, fmt.Errorf("receive from Redis at %s: %w", c.addr, err)
	}
	return string(b[:n]), nil
}

func (c *conn) array(n, depth int) (any, error) {
	a := make([]any, 0, min(n, 1024))
	for range n {
		v, err := c.replyAt(depth + 1)
		if err != nil {
			return nil, err
		}
		a = append(a, v)
	}
	return a, nil
}

// Redis's flat maps, as RESP 2 writes them: name, value, name, value.
func asMap(v any) map[string]any {
	a, _ := v.([]any)
	m := make(map[string]any, len(a)/2)
	for i := 0; i+1 < len(a); i += 2 {
		if name, ok := a[i].(string); ok {
			m[name] = a[i+1]
		}
	}
	return m
}
