-- Let leases last longer. What is leased no more, or was stored anew, is left alone.
-- KEYS[1]  leased  ZSET id -> end of its lease
-- KEYS[2]  leases  HASH id -> token
-- ARGV[1]  a lease in milliseconds
-- ARGV[2..] id, token; repeated
-- Returns the number of leases that go on.
local ids, ends = {}, {}
for i = 2, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
local tokens = redis.call('HMGET', KEYS[2], unpack(ids))
local now = clock()
local until_ms = string.format('%.0f', now + ARGV[1])
for i, id in ipairs(ids) do
  if tokens[i] == ARGV[2 * i + 1] then ends[#ends + 1], ends[#ends + 2] = until_ms, id end
end
if #ends > 0 then redis.call('ZADD', KEYS[1], 'XX', unpack(ends)) end
return #ends / 2
