package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/walrill/walrill/capture"
	"github.com/walrill/walrill/change"
	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/keys"
	"github.com/walrill/walrill/sink"
	"github.com/walrill/walrill/transform"
)

// compatible compares the data that the mapping makes with the versions in the catalogue, as a start would.
func compatible(mapper *transform.Mapper, tables []*change.Relation, redis *sink.Diagnosis) []finding {
	if !redis.Read {
		return nil
	}
	const subject = "events"
	schemas, err := mapper.Schemas(tables)
	if err != nil {
		return []finding{brought(subject, err)}
	}
	var findings []finding
	published := 0
	for _, s := range schemas {
		breaks, err := s.Judge(redis.Catalogue)
		if err != nil {
			f := brought("events "+s.Name(), err)
			f.Finding = strings.ReplaceAll(f.Finding, "\n    ", "\n")
			findings = append(findings, f)
			continue
		}
		if len(breaks) > 0 {
			findings = append(findings, finding{capture.LevelWarning, "events " + s.Name(), "their table has changed so that the next ones may break consumers: " + fmt.Sprint(breaks), ""})
		}
		published++
	}
	if len(findings) == 0 && published > 0 && len(redis.Catalogue) > 0 {
		findings = append(findings, finding{capture.LevelOK, subject, fmt.Sprintf("%d schemas fit the catalogue's versions", published), ""})
	}
	return findings
}

// subjectKeyRights looks whether the keys of encrypted columns can be read and made.
func subjectKeyRights(ctx context.Context, cfg *config.Config) []finding {
	encrypts := false
	for _, s := range cfg.Streams {
		for _, t := range s.AllTables() {
			encrypts = encrypts || t.Encrypt != nil
		}
	}
	if !encrypts {
		return nil
	}
	const subject = "walrill.subject_keys"
	lacking, made, err := keys.Check(ctx, cfg.Source.URL.Reveal(), cfg.MasterKey.Reveal())
	switch {
	case err != nil:
		return []finding{brought(subject, err)}
	case lacking != nil:
		return []finding{{capture.LevelError, subject, lacking.Problem, lacking.Fix}}
	case !made:
		return []finding{{capture.LevelOK, subject, "walrill makes it with the first key", ""}}
	}
	return []finding{{capture.LevelOK, subject, "keys can be read, made and destroyed", ""}}
}
