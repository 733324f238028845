-- Remove all messages of a queue, waiting and leased. Dead letters, limits of lanes, and counters stay.
-- KEYS[1]  messages  HASH id -> envelope and stored form
-- KEYS[2]  stats     HASH of counters
-- KEYS[3]  wake      LIST of at most one token
-- KEYS[4]  chained, KEYS[5] chained:entries, KEYS[6] chained:heads: see chained.lua
-- KEYS[7..] all other keys of the messages
-- ARGV     the number of ranks; for each, lanes (ZSET lane -> when to look at it) follows KEYS[6]; then for each lane
--          reference, whose waiting key comes behind those, the reference
-- Returns {number of messages, references that were needed too}: nothing is removed if there are such.
local ranks = tonumber(ARGV[1])
local is_given, needed = {}, {}
for i = 2 + ranks, #ARGV do is_given[ARGV[i]] = true end
for r = 1, ranks do
  for _, lane in ipairs(redis.call('ZRANGE', KEYS[6 + r], 0, -1)) do
    if not is_given[ARGV[1 + r] .. lane] then needed[#needed + 1] = ARGV[1 + r] .. lane end
  end
end
if #needed > 0 then return { 0, needed } end
local count = redis.call('HLEN', KEYS[1]) + redis.call('ZCARD', KEYS[4]) - redis.call('HLEN', KEYS[6])
if count > 0 then redis.call('HINCRBY', KEYS[2], 'purged', count) end
redis.call('DEL', KEYS[3])
redis.call('UNLINK', KEYS[1])
for i = 4, #KEYS do redis.call('UNLINK', KEYS[i]) end
return { count, needed }
