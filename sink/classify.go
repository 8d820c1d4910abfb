package sink

import (
	"errors"
	"net"
	"os"
	"strings"
)

// kind is why Redis does not take what it is sent. Every kind is retried, with
// the whole batch; the kind says who has to do something about it.
type kind string

const (
	kindOOM         kind = "oom"
	kindReadonly    kind = "readonly"
	kindLoading     kind = "loading"
	kindMisconf     kind = "misconf"
	kindNoPerm      kind = "noperm"
	kindWrongType   kind = "wrongtype"
	kindClusterDown kind = "clusterdown"
	kindMoved       kind = "moved"
	kindNoAuth      kind = "noauth"
	kindConnection  kind = "connection"
	kindTimeout     kind = "timeout"
	kindNoReplicas  kind = "noreplicas"
	kindForeign     kind = "foreign" // a stream has entries or an ID that are not ours
	kindOther       kind = "other"
)

// permanent is an error that trying again does not help; whoever starts
// publishers asks for that.
type permanent struct{ error }

func (permanent) Permanent() bool { return true }

func (p permanent) Unwrap() error { return p.error }

// fatal reports whether the publisher cannot go on after an error.
func fatal(err error) bool {
	var lost ErrTailLost
	var diverged ErrDiverged
	var fenced ErrFenced
	return errors.As(err, &lost) || errors.As(err, &diverged) || errors.As(err, &fenced) || errors.Is(err, errCatalogueChanged)
}

// kindOf classifies an error that is retried.
func kindOf(err error) kind {
	var reply replyError
	var network net.Error
	var gone errGone
	switch {
	case errors.Is(err, errForeign):
		return kindForeign
	case errors.Is(err, errShort):
		return kindNoReplicas
	case errors.As(err, &reply):
		return replyKind(string(reply))
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return kindTimeout
	case errors.As(err, &gone), errors.Is(err, errTouched), errors.Is(err, errProtocol), errors.Is(err, errCatalogueRace):
		return kindOther
	}
	return kindConnection
}

// replyKind classifies an error reply by its first word.
func replyKind(text string) kind {
	word, rest, _ := strings.Cut(text, " ")
	switch word {
	case "OOM":
		return kindOOM
	case "READONLY", "MASTERDOWN", "UNBLOCKED": // a replica, or a master that has become one
		return kindReadonly
	case "LOADING", "BUSY":
		return kindLoading
	case "MISCONF":
		return kindMisconf
	case "NOPERM":
		return kindNoPerm
	case "WRONGTYPE":
		return kindWrongType
	case "CLUSTERDOWN":
		return kindClusterDown
	case "MOVED", "ASK", "TRYAGAIN", "CROSSSLOT":
		return kindMoved
	case "NOAUTH", "WRONGPASS", "DENIED":
		return kindNoAuth
	case "NOREPLICAS":
		return kindNoReplicas
	case "EXECABORT": // since 7.0 with the reason: "… because of: OOM command not allowed …"
		if _, reason, ok := strings.Cut(rest, "because of: "); ok {
			return replyKind(reason)
		}
	case "ERR":
		if strings.Contains(rest, "AUTH") || strings.Contains(rest, "invalid password") {
			return kindNoAuth
		}
		if strings.Contains(rest, "max number of clients") {
			return kindConnection
		}
	}
	return kindOther
}

// Advice says what can be done about an error reply of Redis, given as its text; "" when that says it all.
func Advice(reply string) string { return hint(replyKind(reply)) }

// hint says what can be done about a kind of error; empty when the text says it all.
func hint(k kind) string {
	switch k {
	case kindOOM:
		return "raise maxmemory or trim more (sink.retention)"
	case kindReadonly:
		return "this server is a replica; point sink.url at the master, or at Sentinel with redis+sentinel://"
	case kindLoading:
		return "the server is loading its data or busy with a script; it goes on by itself"
	case kindMisconf:
		return "the server cannot save; see its log and disk, or set stop-writes-on-bgsave-error no"
	case kindNoPerm:
		return "grant the user's missing rights with ACL SETUSER"
	case kindWrongType:
		return "something else uses that key; delete or rename it, or rename the stream"
	case kindClusterDown:
		return "see CLUSTER INFO and the nodes that are down"
	case kindMoved:
		return "slots are moving to another node; it goes on when they have moved; for a Cluster use redis+cluster://"
	case kindNoAuth:
		return "check the user and password in sink.url"
	case kindConnection, kindTimeout:
		return "check that the server runs and can be reached, and sink.url"
	case kindNoReplicas:
		return "check the replicas, or ask for less in sink.durability"
	}
	return ""
}
