-- Remove dead letters.
-- KEYS[1]  dead        HASH id -> reason, line feed, stored form
-- KEYS[2]  dead:times  ZSET id -> when it died
-- KEYS[3]  stats       HASH of counters
-- ARGV     ids
-- Returns how many there were.
local removed = redis.call('HDEL', KEYS[1], unpack(ARGV))
redis.call('ZREM', KEYS[2], unpack(ARGV))
if removed > 0 then redis.call('HINCRBY', KEYS[3], 'removed', removed) end
return removed
