package main

import (
	"cmp"
	"slices"

	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/transform"
)

func declaredAbout(list []config.Declared, where string) config.About {
	for _, d := range list {
		if d.At.String() == where {
			return d.About
		}
	}
	return config.About{}
}

// tableAbout is what the file says of the table at a place. What it does not say, the stream says.
func (g *cataloguer) tableAbout(where string) config.About {
	for _, s := range g.config.Streams {
		for _, t := range s.Tables {
			if t.At.String() == where || t.Outbox != nil && t.Outbox.At.String() == where {
				return config.About{Description: t.About.Description, Owner: cmp.Or(t.About.Owner, s.About.Owner)}
			}
		}
	}
	return config.About{}
}

// aggregateAbout is what the file says of the aggregate at a place.
func (g *cataloguer) aggregateAbout(where string) config.About {
	for _, s := range g.config.Streams {
		for _, a := range s.Aggregates {
			if a.At.String() == where {
				return config.About{Description: a.About.Description, Owner: cmp.Or(a.About.Owner, s.About.Owner)}
			}
		}
	}
	return config.About{}
}

// eventAbout is what the file says of an event itself.
func (g *cataloguer) eventAbout(p *transform.PublishedEvent) config.About {
	switch {
	case p.Aggregate != "":
		return g.aggregateAbout(p.Aggregate)
	case p.Declared == "":
		return g.ruleAbout(p.Rules)
	}
	for _, s := range g.config.Streams {
		for _, t := range s.Tables {
			if t.Outbox == nil {
				continue
			}
			if about := declaredAbout(t.Outbox.Events, p.Declared); about != (config.About{}) {
				return about
			}
		}
	}
	return config.About{}
}

// ruleAbout is what the rules that make an event say of it, the first that says something.
func (g *cataloguer) ruleAbout(places []string) (a config.About) {
	for _, s := range g.config.Streams {
		for _, t := range s.Tables {
			for _, r := range t.Events {
				if slices.Contains(places, r.At.String()) {
					a.Description, a.Owner = cmp.Or(a.Description, r.About.Description), cmp.Or(a.Owner, r.About.Owner)
				}
			}
		}
	}
	return a
}
