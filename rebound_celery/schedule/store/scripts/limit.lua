-- Pause a lane, resume it, or set its rate.
-- KEYS[1]  limits      HASH lane -> its limits
-- KEYS[2]  breakers    HASH lane -> its circuit breaker
-- KEYS[3]  configured  HASH lane -> the rate that the app's settings gave it last
-- KEYS[4]  next        STRING time of the next claim
-- KEYS[5]  wake        LIST of at most one token
-- KEYS[6..] for each rank: waiting of the lane (ZSET id -> due time), lanes (ZSET lane -> when to look at it)
-- ARGV[1]  the lane
-- ARGV[2]  'paused', 'rate', or 'configured': the rate of the app's settings, which changes nothing if it is the same as
--          the last time, so that a rate set by hand stays
-- ARGV[3]  until when it is paused, in Unix milliseconds, or messages a second; 0 ends either
-- Returns 1.
local limits, breakers, lane, what, value = KEYS[1], KEYS[2], ARGV[1], ARGV[2], tonumber(ARGV[3])
local now = clock()
if what == 'configured' then
  if tonumber(redis.call('HGET', KEYS[3], lane) or '0') == value then return 1 end
  if value == 0 then redis.call('HDEL', KEYS[3], lane) else redis.call('HSET', KEYS[3], lane, ARGV[3]) end
end
local paused, rate, paid = limits_of(limits, lane)
local breaker = breaker_of(breakers, lane)
if breaker then paused, rate = breaker.pause, breaker.rate end
if what == 'paused' then paused = value else rate, paid = value, 0 end
if paused <= now then paused = 0 end
if breaker then
  breaker.pause, breaker.rate = paused, rate
  write_breaker(breakers, limits, lane, breaker, paid)
else
  write_limits(limits, lane, paused, rate, paid)
end
look_by_limits(KEYS, 6, limits, KEYS[4], KEYS[5], lane)
return 1
