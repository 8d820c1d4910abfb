# Adds up what each customer of the shop has paid: every event has its effect exactly once, because the position is
# committed together with the effect. pip install redis 'psycopg[binary]'; needs REDIS_URL, and DATABASE_URL for its own tables.
import json, os
import psycopg, redis

pipeline, stream = "shop", "orders"
r = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True, socket_timeout=10)  # more than XREAD blocks
db = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)

with db.transaction():
    db.execute("CREATE SCHEMA IF NOT EXISTS revenue")
    db.execute("CREATE TABLE IF NOT EXISTS revenue.per_customer (customer bigint PRIMARY KEY, total numeric NOT NULL)")
    db.execute("CREATE TABLE IF NOT EXISTS revenue.positions (partition text PRIMARY KEY, id text NOT NULL, seq bigint NOT NULL)")


def apply(event):
    if event["type"] == "order.paid":
        data = json.loads(event["data"], parse_float=str)  # every digit of a numeric
        db.execute("""INSERT INTO revenue.per_customer VALUES (%s, %s)
            ON CONFLICT (customer) DO UPDATE SET total = per_customer.total + excluded.total""", (data["customer_id"], data["total"]))


n = int(r.hget(f"walrill:{{{pipeline}}}:meta", f"partitions:{stream}"))
partitions = [stream] if n == 1 else [f"{stream}:{i}" for i in range(n)]
known = {partition: (id, seq) for partition, id, seq in db.execute("SELECT * FROM revenue.positions")}
at = {p: known.get(p, ("0", 0)) for p in partitions}  # the last ID handled, and its seq

while True:
    for partition, entries in r.xread({p: id for p, (id, _) in at.items()}, count=500, block=5000):
        before = seq = at[partition][1]
        with db.transaction():  # the effects and the position, or neither
            for id, event in entries:
                if int(event["seq"]) != seq + 1:
                    raise SystemExit(f"{partition}: after seq {seq} comes {event['seq']}: entries are missing, start from the table's rows again")
                seq += 1
                apply(event)
            moved = db.execute("""INSERT INTO revenue.positions VALUES (%s, %s, %s) ON CONFLICT (partition)
                DO UPDATE SET id = excluded.id, seq = excluded.seq WHERE positions.seq = %s""", (partition, id, seq, before))
            if moved.rowcount == 0:
                raise SystemExit(f"{partition}: another process reads it too")
        at[partition] = (id, seq)
