package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/internal/harness"
	"github.com/walrill/walrill/projector"
)

// verify runs the command and returns what it found.
func (r *viewRig) verify(args ...string) []projector.Comparison {
	r.Helper()
	cmd := exec.CommandContext(r.Context(), "walrill", append([]string{"verify", "-c", r.file, "--json", "--patience", "8s"}, args...)...)
	out, err := cmd.Output()
	var ended *exec.ExitError
	if err != nil && !(errors.As(err, &ended) && ended.ExitCode() == exitFound) {
		if ended != nil {
			out = append(out, ended.Stderr...)
		}
		r.Fatalf("verify: %v\n%s", err, out)
	}
	var list []projector.Comparison
	if err := json.Unmarshal(out, &list); err != nil {
		r.Fatalf("verify: %v\n%s", err, out)
	}
	return list
}

// differences are those that a verify found, as "view key kind".
func differences(list []projector.Comparison) (found []string) {
	for _, c := range list {
		for _, d := range c.Differences {
			var key bytes.Buffer
			if err := json.Compact(&key, d.Key); err != nil {
				found = append(found, err.Error())
			}
			found = append(found, fmt.Sprintf("%s %s %s", c.View, &key, d.Kind))
		}
	}
	return found
}

// addDocuments has the rows of a mirror's table, and of a query, as documents in Redis, too.
func (r *viewRig) addDocuments() {
	r.Helper()
	config, err := os.ReadFile(r.file)
	if err == nil {
		err = os.WriteFile(r.file, append(config, "  account_doc: {document: \"account:{id}\", mirror: accounts}\n  worth_doc: {document: \"worth:{customer_id}\", from: customers_worth, as: hash}\n"...), 0o600)
	}
	if err != nil {
		r.Fatal(err)
	}
}

// While everything changes, verify never calls right what somebody has spoilt, nor wrong what is right, and repairs it.
func TestVerifyUnderLoad(t *testing.T) {
	t.Parallel()
	for name, same := range map[string]bool{"store apart": false, "store is source": true} {
		t.Run(name, func(t *testing.T) {
			r := newViewRig(t, same, nil)
			r.addDocuments()
			r.pace = 10 * time.Millisecond // faster, and everything has changed again whenever verify looks again
			r.daemon()
			r.live()
			for _, view := range []string{"account_doc", "worth_doc"} {
				if out, err := exec.Command("walrill", "wait", "-c", r.file, view, "--lsn", "0/1", "--timeout", "60s").CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			r.begin()
			harness.Eventually(t, 2*patience, "every view has rows", func() bool {
				return harness.Value(t, r.store, "SELECT EXISTS (SELECT FROM lines) AND EXISTS (SELECT FROM purses)") == "t"
			})
			runs, unjudged := 0, 0
			for ; r.goesOn(); runs++ {
				list := r.verify("--chunk", fmt.Sprint(5+r.rand.IntN(60)))
				if found := differences(list); len(found) > 0 {
					t.Fatalf("run %d found %q, and nothing is wrong", runs, found)
				}
				for _, c := range list {
					unjudged += len(c.Unjudged)
					if c.Rows == 0 || c.NotJudged != "" {
						t.Errorf("run %d compared nothing of %s: %s", runs, c.View, c.NotJudged)
					}
				}
			}
			t.Logf("%d runs, %d keys could not be judged", runs, unjudged)

			// No more events: a fold is folded again from all there are, each time.
			harness.Exec(t, r.source, "CREATE RULE enough AS ON INSERT TO moves DO INSTEAD NOTHING")
			schema := "walrill_" + harness.DatabaseName(t, r.source)
			harness.Exec(t, r.store, "UPDATE accounts_copy SET note = 'spoilt' WHERE id = 50", "INSERT INTO customers_worth VALUES (5000, 'nobody', 1, 1)",
				"INSERT INTO "+schema+".customers VALUES (7000, 'nobody')", "INSERT INTO purses VALUES (8000, 1, 1, 1, '')")
			client, err := consumer.NewClient(r.redis.URL())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			keys := "walrill:{" + harness.DatabaseName(t, r.source) + "}:document:"
			for view, key := range map[string]string{"account_doc": "account:8100", "worth_doc": "worth:8200"} {
				if err := errors.Join(client.Set(t.Context(), key, "{}", 0).Err(), client.SAdd(t.Context(), keys+view+":keys", key).Err()); err != nil {
					t.Fatal(err)
				}
			}
			wanted := []string{`account_doc "account:8100" extra`, `worth_doc "worth:8200" extra`,
				`accounts_copy {"id":50} differs`, `customers {"id":7000} extra`, `customers_worth {"customer_id":5000} extra`, `purses {"purse":8000} extra`}
			seen := map[string]bool{}
			if !harness.Poll(4*patience, func() bool {
				for _, d := range differences(r.verify()) {
					seen[d] = true
				}
				return !slices.ContainsFunc(wanted, func(d string) bool { return !seen[d] })
			}) {
				t.Fatalf("verify found %v, want %q", seen, wanted)
			}
			if len(seen) != len(wanted) {
				t.Errorf("found %v, want %q", seen, wanted)
			}
			harness.Eventually(t, 4*patience, "everything is repaired", func() bool {
				r.verify("--repair")
				return len(differences(r.verify())) == 0 && harness.Value(t, r.store, "SELECT count(*) FROM accounts_copy WHERE note = 'spoilt'") == "0"
			})
			r.finish()
		})
	}
}
