package sink

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// topology is how the server to write to is found.
type topology int

const (
	single   topology = iota // one address
	sentinel                 // asked of Sentinels
	cluster                  // one node a range of slots
)

const defaultTimeout = 5 * time.Second

// target is where Redis is and how to get in, as its URL says. It never changes.
type target struct {
	topology      topology
	network       string   // tcp or unix
	addrs         []string // of the server, of the Sentinels, or of some nodes of the Cluster
	master        string   // the Sentinels' name for the master
	login         login
	sentinelLogin login
	db            int
	name          string      // of the connections
	tls           *tls.Config // nil without TLS
	dialTimeout   time.Duration
	timeout       time.Duration // of one exchange
}

// login is a user and password; both may be empty.
type login struct{ user, password string }

// parseURL reads the forms that Options.URL names. Query parameters are those of go-redis's ParseURL
// (of which timeouts, db, client_name and skip_verify matter here), and
// tls_ca_file, tls_cert_file, tls_key_file, sentinel_username and sentinel_password.
func parseURL(raw string) (*target, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return nil, errors.New("Redis URL: want one that starts with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://")
	}
	rest, rawQuery, _ := strings.Cut(rest, "?")
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return nil, errors.New("Redis URL: the query after ? is malformed")
	}
	t := &target{sentinelLogin: login{take(query, "sentinel_username"), take(query, "sentinel_password")}}
	ca, cert, key := take(query, "tls_ca_file"), take(query, "tls_cert_file"), take(query, "tls_key_file")

	plain := scheme
	switch scheme {
	case "redis", "rediss", "unix":
	case "redis+sentinel", "rediss+sentinel":
		t.topology = sentinel
	case "redis+cluster", "rediss+cluster":
		t.topology = cluster
	default:
		return nil, fmt.Errorf("Redis URL: scheme %q: want redis, rediss, unix, redis+sentinel or redis+cluster", scheme)
	}
	if t.topology != single {
		plain, _, _ = strings.Cut(scheme, "+")
		if rest, err = t.takeHosts(rest); err != nil {
			return nil, err
		}
	}
	if len(query) > 0 {
		rest += "?" + query.Encode()
	}
	o, err := redis.ParseURL(plain + "://" + rest)
	if err != nil {
		return nil, urlError(err)
	}
	t.apply(o)
	if err := t.loadCertificates(ca, cert, key); err != nil {
		return nil, err
	}
	return t, nil
}

func take(query url.Values, name string) string {
	v := query.Get(name)
	query.Del(name)
	return v
}

// takeHosts takes the hosts, and the master's name, out of what follows the
// scheme, and returns what is left with the first host in their place.
func (t *target) takeHosts(rest string) (string, error) {
	authority, path, _ := strings.Cut(rest, "/")
	user := ""
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		user, authority = authority[:i+1], authority[i+1:]
	}
	port := "6379"
	if t.topology == sentinel {
		port = "26379"
		t.master, path, _ = strings.Cut(path, "/")
		if t.master == "" {
			return "", errors.New("Redis URL: the master's name is missing: want redis+sentinel://host:port,host:port/<master>")
		}
	} else if path != "" && path != "0" {
		return "", errors.New("Redis URL: a Cluster has database 0 only")
	}
	for host := range strings.SplitSeq(authority, ",") {
		addr, err := withPort(host, port)
		if err != nil {
			return "", err
		}
		t.addrs = append(t.addrs, addr)
	}
	return user + t.addrs[0] + "/" + path, nil
}

func withPort(host, port string) (string, error) {
	u, err := url.Parse("redis://" + host)
	if err != nil || u.Hostname() == "" || u.Path != "" {
		return "", errors.New("Redis URL: want hosts as host:port, with commas between them")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// urlError says what is wrong with a URL without its text: url.Error repeats
// the URL, and a password with a slash in it ends up in the path.
func urlError(err error) error {
	var u *url.Error
	switch text := err.Error(); {
	case errors.As(err, &u):
		return errors.New("Redis URL: it cannot be parsed; special characters in the user and password must be percent-encoded")
	case strings.Contains(text, "database number"), strings.Contains(text, "URL path"):
		return errors.New("Redis URL: the path must be a database number, such as /0; a slash in the password must be written %2F")
	default:
		return fmt.Errorf("Redis URL: %s", strings.TrimPrefix(text, "redis: "))
	}
}

// apply takes over what go-redis has read.
func (t *target) apply(o *redis.Options) {
	t.network = o.Network
	t.login = login{o.Username, o.Password}
	t.db = o.DB
	t.tls = o.TLSConfig
	t.name = o.ClientName
	if t.name == "" {
		t.name = "walrill"
	}
	if t.topology == single {
		t.addrs = []string{o.Addr}
	}
	t.timeout, t.dialTimeout = max(o.ReadTimeout, o.WriteTimeout), o.DialTimeout
	if t.timeout <= 0 { // never without: a stalled server must be noticed
		t.timeout = defaultTimeout
	}
	if t.dialTimeout <= 0 {
		t.dialTimeout = defaultTimeout
	}
}

// loadCertificates reads the CA to trust and the certificate to show, as far as
// they are given.
func (t *target) loadCertificates(ca, cert, key string) error {
	if ca == "" && cert == "" && key == "" {
		return nil
	}
	if t.tls == nil {
		return errors.New("Redis URL: tls_ca_file, tls_cert_file and tls_key_file need a scheme with TLS, such as rediss")
	}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return fmt.Errorf("Redis URL: read tls_ca_file: %w", err)
		}
		t.tls.RootCAs = x509.NewCertPool()
		if !t.tls.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("Redis URL: tls_ca_file %s: no certificate in it", ca)
		}
	}
	if cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return fmt.Errorf("Redis URL: read tls_cert_file and tls_key_file: %w", err)
		}
		t.tls.Certificates = []tls.Certificate{pair}
	}
	return nil
}
