-- A worker has received its claim: its leases last now, and their end is a loss.
-- KEYS[1]  claims       HASH worker -> its last claim
-- KEYS[2]  unconfirmed  ZSET worker -> until when its claim must be confirmed
-- ARGV[1]  the worker
-- ARGV[2]  the number of the claim
-- Returns 1, or 0 if the claim is over: its messages wait again, or another worker has them.
local claim = redis.call('HGET', KEYS[1], ARGV[1])
if not claim then return 0 end
local number, rest = string.match(claim, '^(%d+) %d ()')
if number ~= ARGV[2] then return 0 end
local ids = string.sub(claim, rest)
-- It was not confirmed in time.
if ids == cmsgpack.pack({}) then return 0 end
local now = clock()
redis.call('HSET', KEYS[1], ARGV[1], number .. ' 1 ' .. ids)
redis.call('ZADD', KEYS[2], now + 600000, ARGV[1])
return 1
