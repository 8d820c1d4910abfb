-- Gives the documents back: who waits for them need not wait until the lease ends. KEYS: state. ARGV: owner.
if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then redis.call('HDEL', KEYS[1], 'until') end
return 0
