package event

import (
	"strconv"
	"strings"
)

func partitionKey(stream string, i int) string { return stream + ":" + strconv.Itoa(i) }

// MetaKey is the hash of what the pipeline knows of its source: system
// identifier, timeline, epoch. All control keys share one hash tag, so that
// they live in one slot of a Redis Cluster.
func MetaKey(pipeline string) string { return controlKey(pipeline, "meta") }

// CommitsKey is the stream of watermarks: ID <watermark>-0, fields time and events.
func CommitsKey(pipeline string) string { return controlKey(pipeline, "commits") }

// BackfillKey is the hash of backfills: for each table a field of its name that the daemon
// writes, a Backfill, and one that commands write, a BackfillRequest.
func BackfillKey(pipeline string) string { return controlKey(pipeline, "backfill") }

// CatalogueKey is the hash of schemas: for each version a field, see Schema.Field, with its Schema as JSON.
func CatalogueKey(pipeline string) string { return controlKey(pipeline, "catalogue") }

// ControlKeys are all keys that a pipeline may have beside its streams, :meta last: it lists the streams.
func ControlKeys(pipeline string) []string {
	return []string{CommitsKey(pipeline), CatalogueKey(pipeline), BackfillKey(pipeline), WriterKey(pipeline), ParkedKey(pipeline), MetaKey(pipeline)}
}

// ClaimField is the field of WriterKey and PartitionWriterKey.
const ClaimField = "claim"

// WriterKey is the hash that tells which publisher writes now.
func WriterKey(pipeline string) string { return controlKey(pipeline, "writer") }

// PartitionWriterKey is WriterKey in a Redis Cluster, for one partition and in its slot.
func PartitionWriterKey(pipeline, partition string) string {
	tag := partition
	if _, rest, ok := strings.Cut(partition, "{"); ok {
		if inner, _, ok := strings.Cut(rest, "}"); ok && inner != "" {
			tag = inner
		}
	}
	return "walrill:{" + tag + "}:writer:" + pipeline
}

func controlKey(pipeline, what string) string { return "walrill:{" + pipeline + "}:" + what }

// ViewsPipeline is the pipeline of the events that a pipeline's views emit: they come later than those that they are made of, so
// they have a watermark of their own, and with it all other control keys. No other pipeline can have the name.
func ViewsPipeline(pipeline string) string { return pipeline + "+views" }
