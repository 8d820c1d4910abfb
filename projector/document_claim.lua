-- Makes the caller the owner of a view's documents. KEYS: state. ARGV: owner (<id>:<number>:<random>), lease in ms, and 1 when
-- the caller has this right from elsewhere, by the number of its id. Returns 0, or for how many ms another has it, or -1 when the number is old.
local held = redis.call('HMGET', KEYS[1], 'owner', 'until')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if held[1] and held[1] ~= ARGV[1] then
  local id, number = string.match(held[1], '^([^:]*):(%d+):')
  local myid, mynumber = string.match(ARGV[1], '^([^:]*):(%d+):')
  if ARGV[3] == '1' and id == myid then
    if tonumber(number) > tonumber(mynumber) then return -1 end
  elseif held[2] and tonumber(held[2]) > now then
    return tonumber(held[2]) - now
  end
end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'until', string.format('%.0f', now + ARGV[2]))
return 0
