package sink

import (
	"fmt"
	"strconv"
	"strings"
)

// server looks at one server: its version, its role, and what it does when it is full or restarted.
func (c *checker) server(subject string, conn *conn) {
	reply, err := conn.do("INFO")
	if err != nil {
		if kindOf(err) != kindNoPerm {
			c.found(subject, err)
			return
		}
		c.warn(subject, fmt.Sprintf("redis-cli ACL SETUSER %s +info", c.user()), "reached at %s, but its version, memory and persistence are not known: user %s may not ask INFO", conn.addr, c.user())
		return
	}
	info := infoOf(reply)
	if !c.version(subject, conn.addr, info) || !c.role(subject, conn.addr, info) {
		return
	}
	c.memory(subject, info)
	c.persistence(subject, conn, info)
	c.replicas(subject, info)
	c.limits(subject, conn)
}

// version needs streams as they are since 6.2.
func (c *checker) version(subject, addr string, info map[string]string) bool {
	version := info["redis_version"]
	major, minor, err := parseVersion(version)
	switch {
	case err != nil:
		c.found(subject, err)
		return false
	case before(major, minor, 6, 2):
		c.fail(subject, "upgrade Redis to 6.2 or later", "%s is too old", version)
		return false
	case c.o.Durability.Fsync && before(major, minor, 7, 2):
		c.found(subject, errNoWaitAOF(version))
	default:
		c.ok(subject, "%s at %s, user %s", version, addr, c.user())
	}
	return true
}

// role needs a server that takes writes, found in the way that the URL says.
func (c *checker) role(subject, addr string, info map[string]string) bool {
	if info["role"] == "slave" {
		c.fail(subject, fmt.Sprintf("sink: {url: \"redis://%s:%s\"}   # or Sentinel's address, with redis+sentinel://", info["master_host"], info["master_port"]),
			"%s is a replica and takes no writes", addr)
		return false
	}
	if info["cluster_enabled"] == "1" && c.target.topology != cluster {
		c.fail(subject, fmt.Sprintf("sink: {url: \"redis+cluster://%s\"}", addr), "%s is a node of a Cluster, and sink.url speaks of a single server", addr)
		return false
	}
	return true
}

func (c *checker) memory(subject string, info map[string]string) {
	policy, limit, used := info["maxmemory_policy"], number64(info["maxmemory"]), number64(info["used_memory"])
	const fix = "redis-cli CONFIG SET maxmemory-policy noeviction   # CONFIG REWRITE keeps it"
	switch {
	case !strings.HasPrefix(policy, "allkeys"): // volatile-… evicts keys with a time to live, which streams have not
	case limit > 0:
		c.fail(subject, fix, "maxmemory-policy is %s: when Redis is full it deletes whole streams", policy)
	default:
		c.warn(subject, fix, "maxmemory-policy is %s: it does nothing without maxmemory, but with it whole streams would be deleted", policy)
	}
	if limit > 0 && used > limit/10*9 {
		c.warn(subject, fmt.Sprintf("redis-cli CONFIG SET maxmemory %d   # or trim streams", 2*limit),
			"%d of %d MiB are used; when it is full walrill waits, and Postgres keeps WAL", used>>20, limit>>20)
	}
}

// persistence is about what is left after a restart.
func (c *checker) persistence(subject string, conn *conn, info map[string]string) {
	if info["rdb_last_bgsave_status"] == "err" || info["aof_last_write_status"] == "err" {
		c.warn(subject, "redis-cli LASTSAVE   # and see its log: most often the disk is full", "it could not write to its disk the last time")
	}
	if info["aof_enabled"] != "0" {
		return
	}
	kept := "what came after its last snapshot"
	if conf, ok := conn.config("save"); ok && conf == "" {
		kept = "everything: it takes no snapshots either"
	}
	c.warn(subject, "redis-cli CONFIG SET appendonly yes   # CONFIG REWRITE keeps it",
		"no append-only file: when Redis ends it loses %s. walrill then publishes it again as far as sink.durability.replay_window goes back, and stops when it was more", kept)
}

func (c *checker) replicas(subject string, info map[string]string) {
	if have, want := number64(info["connected_slaves"]), int64(c.o.Durability.Replicas); have < want {
		c.fail(subject, "redis-cli INFO replication   # connect more, or ask for less in sink.durability.replicas",
			"%d replicas are connected, sink.durability asks for %d: walrill would wait for them", have, want)
	}
}

// limits looks at the longest value that Redis takes, if the user may ask.
func (c *checker) limits(subject string, conn *conn) {
	const usual = 512 << 20
	if text, ok := conn.config("proto-max-bulk-len"); ok && number64(text) < usual {
		c.warn(subject, "redis-cli CONFIG SET proto-max-bulk-len 512mb   # CONFIG REWRITE keeps it",
			"proto-max-bulk-len is %s: a row that is longer as JSON stops the pipeline", text)
	}
}

// config asks for one directive; ok is false when the user may not.
func (c *conn) config(name string) (value string, ok bool) {
	reply, err := c.do("CONFIG", "GET", name)
	if err != nil {
		return "", false
	}
	value, ok = asMap(reply)[name].(string)
	return value, ok
}

func number64(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
