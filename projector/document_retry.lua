-- Writes documents that were set aside because their keys were in use, where that is over.
-- KEYS: fresh, index, parked, then the keys. ARGV: json or hash. Returns how many were written.
local done = 0
for k = 4, #KEYS do
  local key = KEYS[k]
  local text = redis.call('HGET', KEYS[3], key)
  local values = text and cjson.decode(text).values
  if values and redis.call('EXISTS', key) == 0 then
    redis.call('SADD', KEYS[2], key)
    redis.call('SADD', KEYS[1], key)
    if ARGV[1] == 'hash' then redis.call('HSET', key, unpack(values)) else redis.call('SET', key, values[1]) end
    redis.call('HDEL', KEYS[3], key)
    done = done + 1
  end
end
return done
