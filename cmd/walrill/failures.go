package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/sink"
)

// attempts are how the driver of Postgres says why it could not connect: a line each, one with TLS and one without.
var attempts = regexp.MustCompile("(failed to connect to `user=[^`]*`:)((?:\n\t[^\n]+)+)")

// plainly makes one line of them, with each reason once, as package capture does.
func plainly(text string) string {
	return attempts.ReplaceAllStringFunc(text, func(said string) string {
		m := attempts.FindStringSubmatch(said)
		var reasons []string
		for line := range strings.SplitSeq(strings.TrimSpace(m[2]), "\n\t") {
			line = strings.TrimPrefix(line, "hostname resolving error: ")
			if !slices.Contains(reasons, line) && !strings.HasSuffix(line, "tls error: server refused TLS connection") {
				reasons = append(reasons, line)
			}
		}
		return m[1] + " " + strings.Join(reasons, "; ")
	})
}

// advised is an error's text, with a way out behind it when it is of a connection and names none.
func advised(err error) string {
	text := plainly(err.Error())
	if strings.Contains(text, "\n  fix: ") {
		return text
	}
	if fix := connectionFix(err, text); fix != "" {
		text += "\n  fix: " + fix
	}
	return text
}

// connectionFix is what to do about an error of a connection, "" for others.
func connectionFix(err error, text string) string {
	var postgres *pgconn.ConnectError
	if errors.As(err, &postgres) {
		return postgresFix(err, text)
	}
	var asked *url.Error // of the daemon
	var op *net.OpError
	var reply redis.Error
	switch {
	case errors.As(err, &asked):
	case errors.As(err, &reply):
		return sink.Advice(reply.Error())
	case errors.As(err, &op) && op.Op == "dial":
		return "check that Redis runs there and can be reached, and sink.url"
	case errors.Is(err, io.EOF):
		return "the server ended the connection: check that it is Redis, and sink.url"
	}
	return ""
}

func postgresFix(err error, text string) string {
	where := "source.url"
	switch {
	case strings.HasPrefix(text, "init: "):
		where = "--source"
	case strings.Contains(text, "view store"):
		where = "views.store"
	}
	var said *pgconn.PgError
	var unknown *net.DNSError
	switch {
	case errors.As(err, &said) && strings.HasPrefix(said.Code, "28"):
		return "check user and password in " + where + ", and that pg_hba.conf lets the user in"
	case errors.As(err, &said) && said.Code == "3D000":
		return "create that database, or correct " + where
	case errors.As(err, &said):
		return ""
	case errors.As(err, &unknown):
		return "correct the host in " + where
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "check that it is Postgres that is there and can be reached, and " + where
	}
	return "check that Postgres runs there and can be reached, and " + where
}
