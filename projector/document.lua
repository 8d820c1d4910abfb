-- Writes one batch of a view's documents, all of it or nothing, if the caller still owns the view and nothing was written since
-- it last looked. In a Redis Cluster all keys are in one slot.
-- KEYS: state (hash), index (set of the documents' keys), fresh (those that a filling has brought), parked (hash), then a key a document.
-- ARGV: owner, serial that is there, serial to be, lease in ms, position or '', json or hash, flags, number of state fields,
-- the fields, then for each document d, or s or c and its value (of a hash: how many names and values, and these); then P field reason, U field.
local state, index, fresh, parked = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local held = redis.call('HMGET', state, 'owner', 'serial', 'position')
if held[1] ~= ARGV[1] or (held[2] or '0') ~= ARGV[2] then
  return {0, held[1] or '', held[2] or ''}
end
local position, hash = ARGV[5], ARGV[6] == 'hash'
if position ~= '' and held[3] and (#position < #held[3] or #position == #held[3] and position < held[3]) then
  return {-1, held[3], ''}
end
local function flag(f) return string.find(ARGV[7], f, 1, true) ~= nil end
local noting = flag('f') -- a filling is going on: a row that went meanwhile is no document that was wrong

-- The first write is one that a full Redis refuses: what comes behind it is then not refused any more. Whoever finds `torn`
-- knows that a batch is there in part.
redis.call('HSET', state, 'torn', '1')
if flag('b') then redis.call('DEL', fresh) end
if flag('n') then redis.call('DEL', parked) end
if flag('t') then
  for _, key in ipairs(redis.call('SMEMBERS', index)) do redis.call('UNLINK', key) end
  redis.call('DEL', index, fresh, parked)
end
local time = redis.call('TIME')
local some = redis.call('HLEN', parked) > 0

local function differs(key, from, to)
  if not hash then return redis.pcall('GET', key) ~= ARGV[from] end
  local now = redis.pcall('HGETALL', key)
  if now.err or #now ~= to - from + 1 then return true end
  local fields = {}
  for i = 1, #now, 2 do fields[now[i]] = now[i + 1] end
  for i = from, to, 2 do
    if fields[ARGV[i]] ~= ARGV[i + 1] then return true end
  end
  return false
end

local function park(field, why, values)
  redis.call('HSET', parked, field, cjson.encode({error = why, at = tonumber(time[1]), values = values}))
  some = true
end

local fields = tonumber(ARGV[8])
local changed, a = 0, 9 + fields
for k = 5, #KEYS do
  local key, op = KEYS[k], ARGV[a]
  if some then redis.call('HDEL', parked, key) end
  if op == 'd' then
    a = a + 1
    if redis.call('SREM', index, key) == 1 then
      local there = redis.call('UNLINK', key)
      if not noting then changed = changed + there end
      redis.call('SREM', fresh, key)
    end
  else
    local from, n = a + 1, 1
    if hash then from, n = a + 2, tonumber(ARGV[a + 1]) end
    local to = from + n - 1
    a = to + 1
    if redis.call('SADD', index, key) == 1 and redis.call('EXISTS', key) == 1 then
      redis.call('SREM', index, key)
      local values = {}
      for i = from, to do values[#values + 1] = ARGV[i] end
      park(key, 'the key is in use, and not by a document of this view', values)
    else
      if op == 'c' and differs(key, from, to) then changed = changed + 1 end
      if hash then
        redis.call('UNLINK', key)
        redis.call('HSET', key, unpack(ARGV, from, to))
      else
        redis.call('SET', key, ARGV[from])
      end
      if noting then redis.call('SADD', fresh, key) end
    end
  end
end
while a <= #ARGV do
  if ARGV[a] == 'P' then
    park(ARGV[a + 1], ARGV[a + 2])
    a = a + 3
  else
    redis.call('HDEL', parked, ARGV[a + 1])
    a = a + 2
  end
end
if flag('e') then redis.call('DEL', fresh) end
for i = 9, 8 + fields, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', state, ARGV[i]) else redis.call('HSET', state, ARGV[i], ARGV[i + 1]) end
end
local till = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[4])
redis.call('HSET', state, 'serial', ARGV[3], 'until', till)
if position ~= '' then redis.call('HSET', state, 'position', position) end
if not flag('k') then redis.call('HDEL', state, 'torn') end
return {1, changed, redis.call('HLEN', parked)}
