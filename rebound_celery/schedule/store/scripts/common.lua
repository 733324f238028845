-- What several scripts use; the runner puts it before each of them.

-- The time by Redis' clock, in Unix milliseconds: whole, and with microseconds.
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000), time[1] * 1000 + time[2] / 1000
end

-- A stored message is: how many workers were lost with it (1 byte), the length of its lane reference (2 bytes), the
-- reference (the digit of its rank, and its lane), and the form that its owner stored.
local function reference_of(message)
  return string.sub(message, 4, 3 + string.byte(message, 2) * 256 + string.byte(message, 3))
end

local function stored_form(message)
  return string.sub(message, 4 + string.byte(message, 2) * 256 + string.byte(message, 3))
end

local function without_losses(message) return '\0' .. string.sub(message, 2) end

local function with_one_more_loss(message)
  return string.char(math.min(255, string.byte(message, 1) + 1)) .. string.sub(message, 2)
end

-- The limits of a lane: paused until, messages a second, when all claimed so far are paid for.
local function limits_of(limits, lane)
  local text = redis.call('HGET', limits, lane)
  if not text then return 0, 0, 0 end
  local paused, rate, paid = string.match(text, '^(%S+) (%S+) (%S+)$')
  return tonumber(paused), tonumber(rate), tonumber(paid)
end

-- How many messages of a limited lane may be claimed at once: a tenth of a second's, and at least one.
local function burst_of(rate) return math.max(1, math.floor(rate / 10)) end

-- When a lane may be claimed from, by its limits.
local function open_from(paused, rate, paid)
  if rate == 0 then return paused end
  local burst = burst_of(rate)
  return math.max(paused, paid - (burst - math.max(1, math.floor(burst / 2))) * 1000 / rate)
end

-- Write the limits of a lane; a lane without limits is not kept.
local function write_limits(limits, lane, paused, rate, paid)
  if paused == 0 and rate == 0 then
    redis.call('HDEL', limits, lane)
  else
    redis.call('HSET', limits, lane, string.format('%.0f %.17g %.3f', paused, rate, paid))
  end
end

-- The circuit breaker of a lane; nil if it is closed. It also keeps the pause and the rate that were set from outside,
-- because `limits` has those that follow from both.
local function breaker_of(breakers, lane)
  local record = redis.call('HGET', breakers, lane)
  return record and cmsgpack.unpack(record)
end

-- Keep the breaker of a lane, and write the limits that follow from it. A pause that is over is written too, while the
-- breaker is open: by it a claim sees that a probe may go out.
local function write_breaker(breakers, limits, lane, breaker, paid)
  redis.call('HSET', breakers, lane, cmsgpack.pack(breaker))
  local paused, rate = breaker.pause, breaker.rate
  if breaker.state ~= 'draining' then
    paused = math.max(paused, breaker.due)
  elseif breaker.drain > 0 then
    rate = rate > 0 and math.min(rate, breaker.drain) or breaker.drain
  end
  write_limits(limits, lane, paused, rate, paid)
end

-- The one message that an open breaker lets through, the probe. The message that was the last probe is taken only if
-- there is no other: it may be the one that is at fault. `is_due_below` tells whether a less urgent rank may have one.
local function probe_of(breaker, waiting, now, is_due_below)
  local found = redis.call('ZRANGEBYSCORE', waiting, '-inf', now, 'LIMIT', 0, 2)
  if not found[1] or found[1] ~= breaker.probe then return found[1] end
  if not found[2] and is_due_below() then return nil end
  return found[2] or found[1]
end

-- Let a lane be looked at when its message is due, unless it is looked at sooner. Returns when that is.
local function look_at(lanes, limits, lane, due)
  local known = redis.call('ZSCORE', lanes, lane)
  if known and tonumber(known) <= due then return tonumber(known) end
  local at = math.max(due, open_from(limits_of(limits, lane)))
  if not known or at < tonumber(known) then
    redis.call('ZADD', lanes, string.format('%.3f', at), lane)
  end
  return at
end

-- Let the next claim come no later than that, and wake a worker that would sleep for longer.
local function claim_by(next_key, wake, at, soon)
  local known = redis.call('GET', next_key)
  if known and tonumber(known) <= at then return end
  redis.call('SET', next_key, string.format('%.0f', math.ceil(at)))
  if at < soon and redis.call('LLEN', wake) == 0 then redis.call('LPUSH', wake, '{}') end
end

-- Let a lane be looked at when its limits, which have changed, say so. From `first` on, `keys` has for each rank the
-- waiting messages of the lane, and the lanes of the rank.
local function look_by_limits(keys, first, limits, next_key, wake, lane)
  local open_at = open_from(limits_of(limits, lane))
  for i = first, #keys, 2 do
    local head = redis.call('ZRANGE', keys[i], 0, 0, 'WITHSCORES')
    if head[2] then
      local at = math.max(tonumber(head[2]), open_at)
      redis.call('ZADD', keys[i + 1], string.format('%.3f', at), lane)
      claim_by(next_key, wake, at, math.huge)
    end
  end
end

-- Where a message goes that comes back: before all that is due in its lane.
local function first_place(waiting, now)
  local head = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')
  if head[2] and tonumber(head[2]) < now then return head[2] end
  return string.format('%.0f', now)
end

-- The lowest score in a sorted set.
local function head_of(key)
  local head = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return tonumber(head[2] or 'inf') or math.huge
end

-- A worker's last claim: its number, whether the worker has confirmed it, and the ids.
local function parse_claim(claim)
  local number, mark, at = string.match(claim, '^(%d+) (%d) ()')
  return tonumber(number), mark ~= '0', cmsgpack.unpack(string.sub(claim, at))
end
