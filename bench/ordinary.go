package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/redis/go-redis/v9"
)

// ordinaryRole makes this program be the ordinary Go path: the library's
// parser, a map of decoded values per row, encoding/json, and a go-redis
// pipeline of 1,000 that is waited for.
const ordinaryRole = "ordinary"

type ordinary struct {
	conn      *pgconn.PgConn
	rdb       *redis.Client
	pipe      redis.Pipeliner
	types     *pgtype.Map
	relations map[uint32]*pglogrepl.RelationMessageV2
	end       pglogrepl.LSN
	commit    pglogrepl.LSN
	ordinal   int
}

// ordinaryMain takes the Postgres URL, the Redis URL, the slot and where to end.
func ordinaryMain(args []string) error {
	ctx := context.Background()
	config, err := pgconn.ParseConfig(args[0])
	if err != nil {
		return err
	}
	config.RuntimeParams["replication"] = "database"
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	options, err := redis.ParseURL(args[1])
	if err != nil {
		return err
	}
	o := &ordinary{conn: conn, rdb: redis.NewClient(options), types: pgtype.NewMap(), relations: map[uint32]*pglogrepl.RelationMessageV2{}}
	o.pipe = o.rdb.Pipeline()
	if o.end, err = pglogrepl.ParseLSN(args[3]); err != nil {
		return err
	}
	err = pglogrepl.StartReplication(ctx, conn, args[2], 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '2'", "publication_names '" + publication + "'"}})
	if err != nil {
		return err
	}
	return o.loop(ctx)
}

func (o *ordinary) loop(ctx context.Context) error {
	next := time.Now().Add(time.Second)
	for {
		if time.Now().After(next) {
			err := pglogrepl.SendStandbyStatusUpdate(ctx, o.conn, pglogrepl.StandbyStatusUpdate{WALWritePosition: o.commit})
			if err != nil {
				return err
			}
			next = time.Now().Add(time.Second)
		}
		raw, err := o.conn.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		msg, ok := raw.(*pgproto3.CopyData)
		if !ok {
			return fmt.Errorf("unexpected message %T", raw)
		}
		done, err := o.copyData(ctx, msg.Data)
		if err != nil || done {
			return err
		}
	}
}

func (o *ordinary) copyData(ctx context.Context, data []byte) (done bool, err error) {
	switch data[0] {
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		keepalive, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
		if err != nil {
			return false, err
		}
		return keepalive.ServerWALEnd >= o.end, o.flush(ctx)
	case pglogrepl.XLogDataByteID:
		x, err := pglogrepl.ParseXLogData(data[1:])
		if err != nil {
			return false, err
		}
		return o.message(ctx, x.WALData)
	}
	return false, nil
}

func (o *ordinary) message(ctx context.Context, data []byte) (done bool, err error) {
	parsed, err := pglogrepl.ParseV2(data, false)
	if err != nil {
		return false, err
	}
	switch m := parsed.(type) {
	case *pglogrepl.RelationMessageV2:
		o.relations[m.RelationID] = m
	case *pglogrepl.BeginMessage:
		o.commit, o.ordinal = m.FinalLSN, 0
	case *pglogrepl.InsertMessageV2:
		err = o.add(ctx, "created", o.relations[m.RelationID], m.Tuple)
	case *pglogrepl.UpdateMessageV2:
		err = o.add(ctx, "updated", o.relations[m.RelationID], m.NewTuple)
	case *pglogrepl.CommitMessage:
		if m.TransactionEndLSN >= o.end {
			return true, o.flush(ctx)
		}
	}
	return false, err
}

func (o *ordinary) add(ctx context.Context, what string, rel *pglogrepl.RelationMessageV2, tuple *pglogrepl.TupleData) error {
	values := map[string]any{}
	for i, column := range tuple.Columns {
		name := rel.Columns[i].Name
		switch column.DataType {
		case 'n':
			values[name] = nil
		case 't':
			value, err := o.decode(column.Data, rel.Columns[i].DataType)
			if err != nil {
				return err
			}
			values[name] = value
		}
	}
	data, err := json.Marshal(values)
	if err != nil {
		return err
	}
	o.ordinal++
	o.pipe.XAdd(ctx, &redis.XAddArgs{Stream: rel.RelationName, ID: fmt.Sprintf("%d-%d", o.commit, o.ordinal),
		Values: []any{"type", rel.RelationName + "." + what, "table", rel.Namespace + "." + rel.RelationName, "data", data}})
	if o.pipe.Len() >= 1000 {
		return o.flush(ctx)
	}
	return nil
}

func (o *ordinary) decode(data []byte, oid uint32) (any, error) {
	if t, ok := o.types.TypeForOID(oid); ok {
		return t.Codec.DecodeValue(o.types, oid, pgtype.TextFormatCode, data)
	}
	return string(data), nil
}

func (o *ordinary) flush(ctx context.Context) error {
	if o.pipe.Len() == 0 {
		return nil
	}
	_, err := o.pipe.Exec(ctx)
	return err
}
