-- Remove dead letters that are older than an age, the oldest first.
-- KEYS[1]  dead        HASH id -> reason, line feed, stored form
-- KEYS[2]  dead:times  ZSET id -> when it died
-- KEYS[3]  stats       HASH of counters
-- ARGV[1]  the age in milliseconds
-- ARGV[2]  how many to remove at most
-- Returns how many were removed.
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', clock() - tonumber(ARGV[1]), 'LIMIT', 0, tonumber(ARGV[2]))
if #ids == 0 then return 0 end
redis.call('HDEL', KEYS[1], unpack(ids))
redis.call('ZREM', KEYS[2], unpack(ids))
redis.call('HINCRBY', KEYS[3], 'expired', #ids)
return #ids
