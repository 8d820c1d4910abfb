package projector

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/walrill/walrill/event"
)

// LSNs of a history that was adopted may be lower than those of the one before. A wait names an LSN of the history in force, so a view that
// has nothing of it yet has not reached any. `walrill adopt` tells the store and the documents of the epoch, and so does whoever begins
// to keep them; later epochs are seen by the position.

// TellEpoch has waits in a view store answer for an epoch only when a view has reached it. It does nothing where no views are kept.
func TellEpoch(ctx context.Context, url, pipeline string, epoch uint8) error {
	conn, err := connect(ctx, url, "command")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it did is committed
	if err := tellEpoch(ctx, conn, pipeline, epoch); !noViewsYet(err) {
		return err
	}
	return nil
}

func tellEpoch(ctx context.Context, store execer, pipeline string, epoch uint8) error {
	if _, err := store.Exec(ctx, "UPDATE walrill.pipelines SET history = $2 WHERE pipeline = $1 AND history < $2", pipeline, int32(epoch)); err != nil {
		return fmt.Errorf("tell the view store of epoch %d: %w", epoch, err)
	}
	return nil
}

// TellDocuments is TellEpoch for a view whose rows are documents.
func TellDocuments(ctx context.Context, client redis.UniversalClient, pipeline string, v *DocumentView, epoch uint8) error {
	key := v.StateKey(pipeline)
	n, err := client.Exists(ctx, key).Result()
	if err == nil && n > 0 {
		err = client.HSet(ctx, key, "epoch", epoch).Err()
	}
	if err != nil {
		return fmt.Errorf("tell the documents of view %s of epoch %d: %w", v.Name, epoch, err)
	}
	return nil
}

// behind says why a position is of no use to who waits for an LSN of the epoch in force; "" when it is.
func behind(position uint64, inForce uint8) string {
	if epoch, _ := event.SplitClock(position); epoch < inForce {
		return fmt.Sprintf("at %s, and has nothing yet of the history that was adopted as epoch %d", clock(position), inForce)
	}
	return ""
}

// inForce is the epoch in force, as far as somebody can tell.
func inForce(ctx context.Context, epoch func(context.Context) (uint8, error)) (uint8, error) {
	if epoch == nil {
		return 0, nil
	}
	return epoch(ctx)
}
