package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/config"
)

// nothing listens there.
const nowhere = "127.0.0.1:1"

func TestFailedConnectionsAreSaidOnOneLineWithAFix(t *testing.T) {
	_, noPostgres := pgx.Connect(t.Context(), "postgres://somebody:s3cret@"+nowhere+"/shop")
	_, noHost := pgx.Connect(t.Context(), "postgres://somebody:s3cret@nothing.invalid/shop")
	client := redis.NewClient(&redis.Options{Addr: nowhere, MaxRetries: -1})
	defer client.Close()
	noRedis := client.Ping(t.Context()).Err()
	_, noDaemon := askDaemon(t.Context(), nowhere)
	for _, c := range []struct {
		err  error
		said string // in its first line, once
		fix  string
	}{
		{fmt.Errorf("connect to the view store: %w", noPostgres), "connection refused", "check that Postgres runs there and can be reached, and views.store"},
		{fmt.Errorf("connect to the keys of subjects: %w", noPostgres), "user=somebody", "check that Postgres runs there and can be reached, and source.url"},
		{noHost, "nothing.invalid", "correct the host in source.url"},
		{fmt.Errorf("read x: %w", noRedis), "connection refused", "check that Redis runs there and can be reached, and sink.url"},
		{fmt.Errorf("read x: %w", io.EOF), "EOF", "the server ended the connection: check that it is Redis, and sink.url"},
		{fmt.Errorf("read x: %w", redisReply("WRONGPASS invalid")), "WRONGPASS", "check the user and password in sink.url"},
		{noDaemon, "connection refused", ""},
		{&net.OpError{Op: "read", Err: errors.New("reset")}, "reset", ""},
		{errors.New("no such view\n  fix: another"), "no such view", "another"},
	} {
		said, fix, _ := strings.Cut(advised(c.err), "\n  fix: ")
		if strings.ContainsAny(said, "\n\t") || strings.Count(said, c.said) != 1 || fix != c.fix {
			t.Errorf("%v:\ngot  %q, fix %q\nwant %q once, fix %q", c.err, said, fix, c.said, c.fix)
		}
	}
}

// What an error is, is not lost with its secrets: exit codes go by it.
func TestRedactedErrorsKeepTheirKind(t *testing.T) {
	cfg := &config.Config{Source: config.Source{URL: config.NewURL("postgres://somebody:s3cret@localhost/shop")}}
	err := redacted(cfg, foundError{errors.New("found at postgres://somebody:s3cret@localhost/shop")})
	if code := report(err); code != exitFound || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("%v: exit code %d, want %d and no password", err, code, exitFound)
	}
}

type redisReply string

func (r redisReply) Error() string { return string(r) }
func (redisReply) RedisError()     {}
