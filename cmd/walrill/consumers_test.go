package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/walrill/walrill/internal/harness"
)

// TestConsumers runs examples/consumers beside examples/shop: killed and started again, each has counted every payment once.
func TestConsumers(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]func(t *testing.T) []string{"python": pythonConsumer, "node": nodeConsumer} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			consumer := command(t)
			pg := harness.NewPostgres(t, harness.PostgresOptions{Version: postgresVersion(t)})
			e := &example{t: t, dir: "../../examples/shop", name: "shop", pg: pg, redis: harness.NewRedis(t, harness.RedisOptions{})}
			shop := pg.URL("shop")
			e.exports = []string{"export DATABASE_URL=" + shop + " REDIS_URL=" + e.redis.URL() + "\n"}
			harness.Exec(t, pg.URL("postgres"), `CREATE DATABASE shop`)
			e.shell(`psql "$DATABASE_URL" -q -v ON_ERROR_STOP=1 -f schema.sql`)
			e.start("walrill run")
			e.shell(`psql "$DATABASE_URL" -q -v ON_ERROR_STOP=1 -f changes.sql`)

			start := func() *harness.Program {
				cmd := exec.Command(consumer[0], consumer[1:]...)
				cmd.Env = append(os.Environ(), "DATABASE_URL="+shop, "REDIS_URL="+e.redis.URL())
				p, err := harness.StartProgram(cmd, filepath.Join(t.TempDir(), "consumer.log"))
				if err != nil {
					t.Fatal(err)
				}
				return p
			}
			paid := func(p *harness.Program, want string) {
				t.Helper()
				harness.Eventually(t, 2*patience, "the consumer has counted "+want, func() bool {
					if p.Ended() {
						t.Fatalf("the consumer ended:\n%s", p.Output())
					}
					return harness.Value(t, shop, `SELECT to_regclass('revenue.positions') IS NOT NULL`) == "t" &&
						harness.Value(t, shop, `SELECT coalesce(string_agg(customer || ' ' || total, ', ' ORDER BY customer), '') FROM revenue.per_customer`) == want
				})
			}
			p := start()
			paid(p, "1 40.00")
			if err := p.Kill(); err != nil {
				t.Fatal(err)
			}
			harness.Exec(t, shop, `UPDATE orders SET status = 'placed', total = 12345678.91`, `UPDATE orders SET status = 'paid'`)
			p = start()
			paid(p, "1 12345718.91, 2 12345678.91")

			// Two at once count nothing twice: who comes second ends. What is gone is not passed over either.
			second := start()
			harness.Eventually(t, 2*patience, "both wait for entries", func() bool {
				return strings.Contains(e.shell(`redis-cli -u "$REDIS_URL" INFO clients`), "blocked_clients:2")
			})
			harness.Exec(t, shop, `UPDATE orders SET status = 'placed', total = 1 WHERE id = 8`, `UPDATE orders SET status = 'paid' WHERE id = 8`)
			harness.Eventually(t, 2*patience, "one of the two ends", func() bool { return p.Ended() || second.Ended() })
			if out := p.Output() + second.Output(); !strings.Contains(out, "another process reads it too") {
				t.Errorf("it does not say why:\n%s", out)
			}
			left := p
			if p.Ended() {
				left = second
			}
			paid(left, "1 12345718.91, 2 12345679.91")
			if err := left.Kill(); err != nil {
				t.Fatal(err)
			}
			harness.Exec(t, shop, `UPDATE orders SET status = 'placed'`, `UPDATE orders SET status = 'paid'`, `UPDATE orders SET status = 'shipped'`)
			e.settle()
			e.shell(`for p in orders:0 orders:1 orders:2 orders:3; do redis-cli -u "$REDIS_URL" XTRIM $p MAXLEN 1; done`)
			p = start()
			harness.Eventually(t, 2*patience, "the consumer ends", p.Ended)
			if out := p.Output(); !gap.MatchString(out) {
				t.Errorf("the consumer does not say what is missing:\n%s", out)
			}
		})
	}
}

var gap = regexp.MustCompile(`orders:\d: after seq \d+ comes \d+: entries are missing`)

// pythonConsumer is run by the Python that has the two packages it needs: that of the PATH, or Debian's.
func pythonConsumer(t *testing.T) []string {
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		if exec.CommandContext(t.Context(), python, "-c", "import redis, psycopg").Run() == nil {
			return []string{python, "../../examples/consumers/consumer.py"}
		}
	}
	t.Fatal("no Python with redis and psycopg: run scripts/install, or pip install redis 'psycopg[binary]'")
	return nil
}

// nodeConsumer installs the two packages beside a copy. Outside of CI it needs no npm: that is a large package in Debian.
func nodeConsumer(t *testing.T) []string {
	if _, err := exec.LookPath("npm"); err != nil && os.Getenv("CI") == "" {
		t.Skip("there is no npm: apt-get install npm")
	}
	dir := t.TempDir()
	code, err := os.ReadFile("../../examples/consumers/consumer.mjs")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "consumer.mjs")
	if err := os.WriteFile(file, code, 0o644); err != nil {
		t.Fatal(err)
	}
	install := exec.CommandContext(t.Context(), "npm", "install", "--prefix", dir, "--no-audit", "--no-fund", "--prefer-offline", "redis@5", "pg@8")
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", install, err, out)
	}
	return []string{"node", file}
}
