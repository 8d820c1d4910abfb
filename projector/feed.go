package projector

import (
	"context"
	"errors"
	"log/slog"

	"github.com/walrill/walrill/event"
)

// Feed brings the events of some streams in commit order. A *consumer.Reader is one.
type Feed interface {
	// Step returns the next event, waiting for it as long as ctx allows. ok is false
	// when instead the watermark has moved and everything below it was handed out.
	//
	// Nothing may be missing unnoticed: also entries that were trimmed before they were read, with none behind them.
	// An error with a method Missing says that events are missing or came out of order, so that what is made of them cannot be right any
	// more. One with a method Foreign is about an entry that is not walrill's, and one with a method Lost says that Redis has lost
	// what will come again: the next call goes on behind these.
	Step(ctx context.Context) (e event.Event, ok bool, err error)
	// Watermark is the watermark up to which events are handed out at present.
	Watermark() uint64
	// Ranks are the seqs that the streams' partitions had come to where the feed begins; 0 where no event was before. It is called
	// before Step, when a stream is read for the first time.
	Ranks(ctx context.Context) (map[string]uint64, error)
}

// A MissingError of a Feed, or of who opens it, says that events are missing.
type MissingError struct{ Err error }

func (e *MissingError) Error() string { return e.Err.Error() }
func (e *MissingError) Unwrap() error { return e.Err }

// open opens a feed that goes on behind what is no reason to stop.
func (o *Options) open(ctx context.Context, streams []string, after event.Position) (Feed, error) {
	feed, err := o.Open(ctx, streams, after)
	return steadily(feed, o.Log, err)
}

func steadily(feed Feed, log *slog.Logger, err error) (Feed, error) {
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return steady{feed, log}, nil
}

// steady is a feed whose errors end it, but for ctx's. What Redis lost comes again with the same IDs; who counts the events sees
// whether all of it did.
type steady struct {
	Feed
	log *slog.Logger
}

// Step implements Feed.
func (f steady) Step(ctx context.Context) (event.Event, bool, error) {
	for {
		e, ok, err := f.Feed.Step(ctx)
		var missing interface{ Missing() }
		var lost interface{ Lost() }
		var foreign interface{ Foreign() }
		switch {
		case err == nil:
			return e, ok, nil
		case errors.As(err, &missing):
			return e, false, &MissingError{Err: err}
		case errors.As(err, &lost):
			f.log.Warn("the views wait for what Redis has lost", "error", err)
		case errors.As(err, &foreign):
			f.log.Warn("an entry is not walrill's: the views leave it out", "error", err)
		default:
			return e, ok, err
		}
	}
}
