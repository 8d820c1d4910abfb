package sink

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/walrill/walrill/event"
)

// ClaimSchema returns the version that a schema has in the catalogue, where it is for good from then on: that which its
// terms give it, else that of one that describes the same, else the next number. Its own Version is ignored.
// It comes after Connect and tries until ctx ends, so it blocks while Redis is away.
func (p *Publisher) ClaimSchema(ctx context.Context, s *event.Schema) (version int, err error) {
	for i := range p.catalogue {
		if s.MayBe(&p.catalogue[i]) {
			p.use(p.catalogue[i])
			return p.catalogue[i].Version, nil
		}
	}
	var claim event.Schema
	err = p.insist(ctx, "claim a schema version for "+s.Name(), func(l *link) error {
		c, err := l.to(ctx, p.session.commits.slot)
		if err != nil {
			return err
		}
		claim = *s
		claim.Version = given(s)
		p.catalogue, err = enter(c, p.o.Pipeline, p.parsed, []*event.Schema{&claim})
		return err
	})
	if err != nil {
		return 0, err
	}
	if claim.Version > 1 {
		p.o.Log.Info("schema", "of", s.Name(), "version", claim.Version)
	}
	p.use(claim)
	return claim.Version, nil
}

// given is the version that the mapping gives a schema, 0 when it gives none.
func given(s *event.Schema) int {
	if s.Terms == nil {
		return 0
	}
	return s.Terms.Version
}

// Catalogue reads :catalogue. It comes after Connect and tries until ctx ends.
func (p *Publisher) Catalogue(ctx context.Context) ([]event.Schema, error) {
	err := p.insist(ctx, "read the catalogue", func(l *link) error {
		c, err := l.to(ctx, p.session.commits.slot)
		if err != nil {
			return err
		}
		p.catalogue, err = enter(c, p.o.Pipeline, p.parsed, nil)
		return err
	})
	return p.catalogue, err
}

// use notes that entries with this schema are published, so that a new connection sees to it
// that the catalogue has it.
func (p *Publisher) use(s event.Schema) {
	p.mu.Lock()
	defer p.mu.Unlock()
	same := func(o event.Schema) bool {
		return o.Version == s.Version && o.Name() == s.Name()
	}
	if !slices.ContainsFunc(p.schemas, same) {
		p.schemas = append(p.schemas, s)
	}
}

// restore puts back what a Redis that went back in time has lost of the catalogue, before anything
// is published to it.
func (p *Publisher) restore(ctx context.Context) error {
	p.mu.Lock()
	published := slices.Clone(p.schemas)
	p.mu.Unlock()
	if len(published) == 0 {
		return nil
	}
	schemas := make([]*event.Schema, len(published))
	for i := range published {
		schemas[i] = &published[i]
	}
	c, err := p.session.link.to(ctx, p.session.commits.slot)
	if err != nil {
		return err
	}
	_, err = enter(c, p.o.Pipeline, map[string]event.Schema{}, schemas)
	return err
}

var (
	errCatalogueRace    = errors.New("the catalogue was written at the same time")
	errCatalogueChanged = errors.New("the catalogue has another schema under a version that entries were published with")
)

// enter sees to it that the catalogue has these schemas, and gives those without a version
// one. It returns the catalogue as it is then. One transaction does it all, or nothing: somebody
// else may be at it. Parsed remembers what texts say: hundreds of tables can show themselves in one
// transaction, and the whole catalogue is read for each.
func enter(c *conn, pipeline string, parsed map[string]event.Schema, schemas []*event.Schema) ([]event.Schema, error) {
	key, meta := event.CatalogueKey(pipeline), event.MetaKey(pipeline)
	replies, err := c.pipeline([][]string{{"WATCH", key}, {"HGETALL", key}, {"HGETALL", meta}})
	if err != nil {
		return nil, err
	}
	for _, reply := range replies {
		if e, bad := reply.(replyError); bad {
			return nil, fmt.Errorf("read %s: %w", key, e)
		}
	}
	known, err := parseCatalogue(key, asMap(replies[1]), parsed)
	if err != nil {
		return nil, err
	}
	transaction := [][]string{{"MULTI"}}
	for _, s := range schemas {
		highest, found, err := look(known, asMap(replies[2]), s)
		if err != nil {
			return nil, err
		}
		if found {
			continue
		}
		if s.Version == 0 {
			s.Version = s.Next(highest)
		}
		text, err := marshal(s)
		if err != nil {
			return nil, err
		}
		known = append(known, *s)
		transaction = append(transaction, []string{"HSET", key, s.Field(), text},
			[]string{"HSET", meta, s.HighestField(), strconv.Itoa(max(highest, s.Version))})
	}
	replies, err = c.pipeline(append(transaction, []string{"EXEC"})) // even if empty: it ends the WATCH
	if err != nil {
		return nil, err
	}
	return known, executed(key, replies)
}

// look looks for a schema. It gives one without a version that of one that describes the same, and
// returns the highest version that was ever given for its table.
func look(known []event.Schema, meta map[string]any, s *event.Schema) (highest int, found bool, err error) {
	if text, ok := meta[s.HighestField()].(string); ok {
		if highest, err = strconv.Atoi(text); err != nil {
			return 0, false, permanent{fmt.Errorf("read field %s of :meta: %q is not a number", s.HighestField(), text)}
		}
	}
	for i := range known {
		k := &known[i]
		switch {
		case !k.SharesNumbers(s):
			continue
		case s.Version == 0 && s.MayBe(k), s.Version == k.Version && k.Describes(s):
			s.Version, found = k.Version, true
		case k.Version == s.Version && k.Name() == s.Name():
			return 0, false, fmt.Errorf("%w: %s", errCatalogueChanged, k.Field())
		}
		highest = max(highest, k.Version)
	}
	return highest, found, nil
}

func parseCatalogue(key string, fields map[string]any, parsed map[string]event.Schema) ([]event.Schema, error) {
	var known []event.Schema
	for field, value := range fields {
		text, _ := value.(string)
		s, ok := parsed[text]
		if ok {
			known = append(known, s)
			continue
		}
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			return nil, permanent{fmt.Errorf("read field %s of %s: %w; something else has written it: redis-cli HDEL '%[2]s' '%[1]s'", field, key, err)}
		}
		parsed[text] = s
		known = append(known, s)
	}
	slices.SortFunc(known, func(a, b event.Schema) int { return cmp.Compare(a.Version, b.Version) })
	return known, nil
}

func marshal(s *event.Schema) (string, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(s)
	return string(bytes.TrimSpace(b.Bytes())), err
}

// executed looks for the error among the replies to a transaction.
func executed(key string, replies []any) error {
	for _, reply := range replies {
		if e, bad := reply.(replyError); bad {
			return fmt.Errorf("write %s: %w", key, e)
		}
	}
	results, ok := replies[len(replies)-1].([]any)
	if !ok {
		return errCatalogueRace
	}
	for _, result := range results {
		if e, bad := result.(replyError); bad {
			return fmt.Errorf("write %s: %w", key, e)
		}
	}
	return nil
}
