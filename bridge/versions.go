package bridge

import (
	"context"
	"fmt"

	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/event"
)

// checkSchemas refuses a mapping whose events would break their consumers, as the tables are now. Nothing is
// claimed: a version is given when the first event uses it.
func (s *session) checkSchemas(ctx context.Context, tables []*change.Relation) error {
	known, err := s.catalogue(ctx)
	if err != nil {
		return err
	}
	schemas, err := s.mapper.Schemas(tables)
	if err != nil {
		return fatal{err}
	}
	for _, schema := range schemas {
		if _, err := schema.Judge(known); err != nil {
			return fatal{err}
		}
	}
	return nil
}

func (s *session) catalogue(ctx context.Context) (known []event.Schema, err error) {
	err = s.meanwhile(ctx, func(ctx context.Context) (err error) { known, err = s.pub.Catalogue(ctx); return err })
	return known, err
}

// giveVersion is for an event whose schema first shows itself: it has its version before any
// event with it is published. The mapper writes it into the events that follow.
func (s *session) giveVersion(ctx context.Context, e *event.Event) error {
	if e.Shape.Version == 0 {
		known, err := s.catalogue(ctx)
		if err != nil {
			return err
		}
		var breaks []event.Difference
		if e.Shape.Terms != nil {
			if breaks, err = e.Shape.Judge(known); err != nil {
				return s.refuse(ctx, err)
			}
		}
		e.Shape.Since = e.Position.LSN()
		err = s.meanwhile(ctx, func(ctx context.Context) (err error) {
			e.Shape.Version, err = s.pub.ClaimSchema(ctx, e.Shape)
			return err
		})
		if err != nil {
			return err
		}
		if len(breaks) > 0 {
			s.seen.breaks++
			s.bridge.opts.Log.Warn("a table has changed so that its events may break consumers: it flows on with a new version",
				"of", e.Shape.Name(), "version", e.Shape.Version, "since", e.Shape.Since, "changes", fmt.Sprint(breaks))
		}
	}
	e.Schema = e.Shape.Version
	return nil
}
