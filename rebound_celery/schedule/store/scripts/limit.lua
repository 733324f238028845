-- Pause a lane, resume it, or set its rate.
-- KEYS[1]  limits  HASH lane -> its limits
-- KEYS[2]  next    STRING time of the next claim
-- KEYS[3]  wake    LIST of at most one token
-- KEYS[4..] for each rank: waiting of the lane (ZSET id -> due time), lanes (ZSET lane -> when to look at it)
-- ARGV[1]  the lane
-- ARGV[2]  'paused' or 'rate'
-- ARGV[3]  until when it is paused, in Unix milliseconds, or messages a second; 0 ends either
-- Returns 1.
local lane = ARGV[1]
local now = clock()
local paused, rate, paid = limits_of(KEYS[1], lane)
if ARGV[2] == 'paused' then paused = tonumber(ARGV[3]) else rate, paid = tonumber(ARGV[3]), 0 end
if paused <= now then paused = 0 end
if paused == 0 and rate == 0 then
  redis.call('HDEL', KEYS[1], lane)
else
  redis.call('HSET', KEYS[1], lane, string.format('%.0f %.17g %.3f', paused, rate, paid))
end
for i = 4, #KEYS, 2 do
  local head = redis.call('ZRANGE', KEYS[i], 0, 0, 'WITHSCORES')
  if head[2] then
    local at = math.max(tonumber(head[2]), open_from(paused, rate, paid))
    redis.call('ZADD', KEYS[i + 1], string.format('%.3f', at), lane)
    claim_by(KEYS[2], KEYS[3], at, math.huge)
  end
end
return 1
