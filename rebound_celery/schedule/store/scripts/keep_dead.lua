-- Keep dead letters.
-- KEYS[1]  dead        HASH id -> reason, line feed, stored form
-- KEYS[2]  dead:times  ZSET id -> when it died
-- KEYS[3]  stats       HASH of counters
-- ARGV     id, time of death in Unix milliseconds or the empty text for now, letter; repeated
-- Returns the number of ids that were new.
local now = clock()
local added = 0
for i = 1, #ARGV, 3 do
  added = added + redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
  redis.call('ZADD', KEYS[2], tonumber(ARGV[i + 1]) or now, ARGV[i])
end
if added > 0 then redis.call('HINCRBY', KEYS[3], 'kept_dead', added) end
return added
