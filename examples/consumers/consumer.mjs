// Adds up what each customer of the shop has paid: every event has its effect exactly once, because the position is
// committed together with the effect. npm install redis pg; needs REDIS_URL, and DATABASE_URL for its own tables.
import pg from 'pg'
import { createClient } from 'redis'

const pipeline = 'shop', stream = 'orders'
const r = await createClient({ url: process.env.REDIS_URL }).connect()
const db = new pg.Client(process.env.DATABASE_URL)
await db.connect()

await db.query(`CREATE SCHEMA IF NOT EXISTS revenue;
  CREATE TABLE IF NOT EXISTS revenue.per_customer (customer bigint PRIMARY KEY, total numeric NOT NULL);
  CREATE TABLE IF NOT EXISTS revenue.positions (partition text PRIMARY KEY, id text NOT NULL, seq bigint NOT NULL)`)

async function apply(event) {
  if (event.type === 'order.paid') {
    // JSON.parse makes a double of a numeric: Postgres takes the data apart and keeps every digit.
    await db.query(`INSERT INTO revenue.per_customer SELECT (d->>'customer_id')::bigint, (d->>'total')::numeric FROM (SELECT $1::jsonb AS d) AS e
      ON CONFLICT (customer) DO UPDATE SET total = per_customer.total + excluded.total`, [event.data])
  }
}

const n = Number(await r.hGet(`walrill:{${pipeline}}:meta`, `partitions:${stream}`))
const at = {} // by partition: the last ID handled, and its seq
for (let i = 0; i < n; i++) at[n === 1 ? stream : `${stream}:${i}`] = { id: '0', seq: 0 }
for (const row of (await db.query('SELECT * FROM revenue.positions')).rows) at[row.partition] = { id: row.id, seq: Number(row.seq) }

for (;;) {
  const from = Object.entries(at).map(([key, { id }]) => ({ key, id }))
  for (const { name, messages } of (await r.xRead(from, { COUNT: 500, BLOCK: 5000 })) ?? []) {
    let { id, seq } = at[name]
    const before = seq
    await db.query('BEGIN') // the effects and the position, or neither: an error ends the process, and with it the transaction
    for (const { id: next, message: event } of messages) {
      if (Number(event.seq) !== seq + 1) {
        throw new Error(`${name}: after seq ${seq} comes ${event.seq}: entries are missing, start from the table's rows again`)
      }
      await apply(event)
      id = next
      seq++
    }
    const moved = await db.query(`INSERT INTO revenue.positions VALUES ($1, $2, $3) ON CONFLICT (partition)
      DO UPDATE SET id = excluded.id, seq = excluded.seq WHERE positions.seq = $4`, [name, id, seq, before])
    if (moved.rowCount === 0) throw new Error(`${name}: another process reads it too`)
    await db.query('COMMIT')
    at[name] = { id, seq }
  }
}
