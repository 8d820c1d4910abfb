package consumer

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// NewClient makes a client for a Redis URL:
//
//	redis://[user:password@]host:port[/db]      rediss:// for TLS
//	unix://[user:password@]/path[?db=n]
//	redis+sentinel://[user:password@]host:port,host:port/master[/db]
//	redis+cluster://[user:password@]host:port,host:port
//
// The last two have a rediss+ form too. User and password are the data
// nodes'; those of the sentinels are the parameters sentinel_username and
// sentinel_password. Other parameters are go-redis's own, such as
// dial_timeout, client_name and skip_verify. No error shows any part of a
// password. NewClient connects to nothing; the caller closes the client.
func NewClient(rawURL string) (redis.UniversalClient, error) {
	a, err := parseAddress(rawURL)
	if err != nil {
		return nil, fmt.Errorf("redis URL: %w", err)
	}
	var client redis.UniversalClient
	switch a.kind {
	case "sentinel":
		client, err = a.sentinelClient()
	case "cluster":
		client, err = a.clusterClient()
	default:
		client, err = a.singleClient()
	}
	if err != nil {
		return nil, fmt.Errorf("redis URL: %w", err)
	}
	return client, nil
}

// One retry is for a pooled connection that a restart of the server has
// closed; waiting for a server that is down is the caller's business. The
// handshake stays as small as it can be, for servers and ACLs that know no
// more than Redis 6.2.
const maxRetries = 1

func (a *address) singleClient() (redis.UniversalClient, error) {
	o, err := redis.ParseURL(a.goRedisURL("", a.path))
	if err != nil {
		return nil, withoutURL(err)
	}
	o.Username, o.Password = a.user, a.password
	if o.MaxRetries == 0 {
		o.MaxRetries = maxRetries
	}
	o.DialerRetries, o.ContextTimeoutEnabled, o.DisableIdentity = 1, true, true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return redis.NewClient(o), nil
}

func (a *address) clusterClient() (redis.UniversalClient, error) {
	if p := strings.Trim(a.path, "/"); p != "" && p != "0" {
		return nil, fmt.Errorf("path %q: a Redis Cluster has database 0 only", a.path)
	}
	o, err := redis.ParseClusterURL(a.goRedisURL("6379", ""))
	if err != nil {
		return nil, withoutURL(err)
	}
	if o.ReadOnly || o.RouteByLatency || o.RouteRandomly {
		return nil, errReplicas
	}
	o.Username, o.Password = a.user, a.password
	if o.TLSConfig != nil {
		o.TLSConfig.ServerName = "" // each node by its own name, not all by the first one's
	}
	o.DialerRetries, o.ContextTimeoutEnabled, o.DisableIdentity = 1, true, true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return redis.NewClusterClient(o), nil
}

func (a *address) sentinelClient() (redis.UniversalClient, error) {
	master, db, _ := strings.Cut(strings.TrimPrefix(a.path, "/"), "/")
	if master == "" {
		return nil, errors.New("want the master's name as the path, such as redis+sentinel://host:26379/mymaster")
	}
	sentinelUser, sentinelPassword := a.query.Get("sentinel_username"), a.query.Get("sentinel_password")
	a.query.Del("sentinel_username")
	a.query.Del("sentinel_password")
	o, err := redis.ParseFailoverURL(a.goRedisURL("26379", "/"+db))
	if err != nil {
		return nil, withoutURL(err)
	}
	o.MasterName, o.Username, o.Password = master, a.user, a.password
	o.SentinelUsername, o.SentinelPassword = sentinelUser, sentinelPassword
	if o.RouteByLatency || o.RouteRandomly || o.ReplicaOnly {
		return nil, errReplicas
	}
	if o.TLSConfig != nil {
		o.TLSConfig.ServerName = ""
	}
	if o.MaxRetries == 0 {
		o.MaxRetries = maxRetries
	}
	o.DialerRetries, o.ContextTimeoutEnabled, o.DisableIdentity = 1, true, true
	return redis.NewFailoverClient(o), nil
}

// address is a Redis URL in its parts. Go's own parser takes neither several
// hosts nor care of what its errors show.
type address struct {
	kind           string // "", "sentinel" or "cluster"
	scheme         string // redis, rediss or unix
	user, password string
	hosts          []string
	path           string
	query          url.Values
}

var (
	errEscape   = errors.New("percent-escape the characters % / ? # @ in user, password and parameters")
	errHost     = errors.New("want host:port after :// or after the @ that ends user and password")
	errReplicas = errors.New("a replica may lack what the watermark promises: remove read_only, replica_only, route_by_latency and route_randomly")
)

// withoutURL is an error of go-redis's parsers without the URL that net/url
// puts into its own.
func withoutURL(err error) error {
	if _, ok := errors.AsType[*url.Error](err); ok {
		return errHost
	}
	return err
}

func parseAddress(raw string) (*address, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return nil, errors.New("want redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// at its start")
	}
	a := &address{}
	if err := a.setScheme(scheme); err != nil {
		return nil, err
	}
	tail := ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		rest, tail = rest[:i], rest[i:]
	}
	// What follows the host and has an @ is most likely the end of a password
	// that was not escaped; nothing of it may come into an error.
	if strings.ContainsAny(tail, "@#") {
		return nil, errEscape
	}
	hosts := rest
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		hosts = rest[i+1:]
		if err := a.setUser(rest[:i]); err != nil {
			return nil, err
		}
	}
	if hosts != "" {
		a.hosts = strings.Split(hosts, ",")
	}
	return a, a.setTail(tail)
}

func (a *address) setScheme(scheme string) error {
	a.scheme, a.kind, _ = strings.Cut(scheme, "+")
	switch {
	case a.scheme == "unix" && scheme == "unix":
	case a.scheme != "redis" && a.scheme != "rediss", a.kind != "" && a.kind != "sentinel" && a.kind != "cluster",
		a.kind == "" && scheme != a.scheme:
		return fmt.Errorf("scheme %q: want redis, rediss, unix, redis+sentinel or redis+cluster", scheme)
	}
	return nil
}

func (a *address) setUser(userinfo string) error {
	user, password, _ := strings.Cut(userinfo, ":")
	var err1, err2 error
	a.user, err1 = url.PathUnescape(user)
	a.password, err2 = url.PathUnescape(password)
	if err1 != nil || err2 != nil {
		return errEscape
	}
	return nil
}

func (a *address) setTail(tail string) error {
	path, query, _ := strings.Cut(tail, "?")
	var err1, err2 error
	a.path, err1 = url.PathUnescape(path)
	a.query, err2 = url.ParseQuery(query)
	if err1 != nil || err2 != nil {
		return errEscape
	}
	single := a.kind == ""
	switch {
	case a.scheme == "unix" && (len(a.hosts) > 0 || a.path == ""):
		return errors.New("want a path after unix://, such as unix:///run/redis.sock")
	case a.scheme != "unix" && len(a.hosts) == 0:
		return errHost
	case single && len(a.hosts) > 1:
		return errors.New("several hosts: want redis+sentinel:// or redis+cluster://")
	}
	return nil
}

// goRedisURL is the URL of these hosts, this path and these parameters in the
// form of go-redis's parsers, without user and password.
func (a *address) goRedisURL(defaultPort, path string) string {
	u := url.URL{Scheme: a.scheme, Path: path}
	for i, host := range a.hosts {
		if _, _, err := net.SplitHostPort(host); err != nil && defaultPort != "" {
			host = net.JoinHostPort(strings.Trim(host, "[]"), defaultPort)
		}
		if i == 0 {
			u.Host = host
		} else {
			a.query.Add("addr", host)
		}
	}
	u.RawQuery = a.query.Encode()
	return u.String()
}
