-- Tell a lane's circuit breaker how deliveries ended, or open or close it by hand.
-- A closed breaker counts over a window, in two halves. Failures that are enough, and enough of all, open it: the lane is
-- paused. When the pause is over, a claim takes one message, the probe (see claim.lua). If the probe fails, the lane is
-- paused for twice as long; if it is delivered, the lane drains at a rate that doubles with each window, and the breaker
-- is closed once nothing is due. A report of nothing means that a message was not sent: it may have been the probe, and
-- another one goes out. This may be sent twice: it then counts twice, which changes no message.
-- KEYS[1]  breakers  HASH lane -> its circuit breaker
-- KEYS[2]  outcomes  STRING for two windows: how deliveries of this lane ended
-- KEYS[3]  limits    HASH lane -> its limits
-- KEYS[4]  next      STRING time of the next claim
-- KEYS[5]  wake      LIST of at most one token
-- KEYS[6..] for each rank: waiting of the lane (ZSET id -> due time), lanes (ZSET lane -> when to look at it)
-- ARGV[1]  the lane
-- ARGV[2]  'report', 'open' or 'close'
-- ARGV[3]  how many deliveries were delivered or refused
-- ARGV[4]  how many failed, as those to a destination that is away do
-- ARGV[5]  the last error, for people
-- ARGV[6]  milliseconds for which 'open' pauses; 0 until it is closed by hand
-- ARGV[7]  the share of failures that opens it, from 0 to 1
-- ARGV[8]  the number of failures that opens it
-- ARGV[9]  the window in milliseconds
-- ARGV[10] milliseconds until the first probe
-- ARGV[11] the longest time between probes in milliseconds
-- ARGV[12] milliseconds within which the outcome of a probe is known; then another one goes out
-- ARGV[13] messages a second of a lane that drains; 0 for no limit
-- Returns {what has changed or the empty text, the breaker or the empty text, the time}. What has changed is 'opened',
--          'probe-failed', 'draining', 'faster' or 'closed'.
local breakers, outcomes, limits, lane, what = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2]
local good, bad, window = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[9])
local first, longest, drain = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[13])
local now = clock()
local breaker = breaker_of(breakers, lane)
local paused, rate, paid = limits_of(limits, lane)

local function changed(event, is_closed)
  if is_closed then
    redis.call('HDEL', breakers, lane)
    local pause = breaker.pause > now and breaker.pause or 0
    write_limits(limits, lane, pause, breaker.rate, paid)
  else
    write_breaker(breakers, limits, lane, breaker, paid)
  end
  redis.call('DEL', outcomes)
  look_by_limits(KEYS, 6, limits, KEYS[4], KEYS[5], lane)
  return { event, is_closed and '' or cmsgpack.pack(breaker), now }
end

local function unchanged() return { '', breaker and cmsgpack.pack(breaker) or '', now } end

local function open(interval, failed, total)
  if not breaker then breaker = { pause = paused > now and paused or 0, rate = rate } end
  breaker.state, breaker.since, breaker.hand = 'open', now, false
  breaker.interval, breaker.due = interval, now + interval
  breaker.wait, breaker.drain, breaker.error = tonumber(ARGV[12]), drain, ARGV[5]
  breaker.failed, breaker.total = failed, total
  return changed('opened')
end

local function is_anything_due()
  for i = 6, #KEYS, 2 do
    if redis.call('ZCOUNT', KEYS[i], '-inf', now) > 0 then return true end
  end
  return false
end

-- Count outcomes; returns how many of the window failed, and how many there were.
local function count()
  local half = window / 2
  local began, was_good, was_bad, is_good, is_bad = string.match(
    redis.call('GET', outcomes) or '', '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
  began = tonumber(began or now)
  if now - began >= window then
    began, was_good, was_bad, is_good, is_bad = now, 0, 0, 0, 0
  elseif now - began >= half then
    began, was_good, was_bad, is_good, is_bad = began + half, is_good, is_bad, 0, 0
  end
  is_good, is_bad = (is_good or 0) + good, (is_bad or 0) + bad
  redis.call('SET', outcomes, string.format('%.0f %d %d %d %d', began, was_good or 0, was_bad or 0, is_good, is_bad),
    'PX', math.ceil(2 * window))
  local failed = (was_bad or 0) + is_bad
  return failed, failed + (was_good or 0) + is_good
end

if what == 'close' then
  if not breaker then return unchanged() end
  return changed('closed', true)
end
if what == 'open' then
  local answer = open(first, 0, 0)
  local duration = tonumber(ARGV[6])
  breaker.hand, breaker.due = true, duration > 0 and now + duration or 1e15
  write_breaker(breakers, limits, lane, breaker, paid)
  look_by_limits(KEYS, 6, limits, KEYS[4], KEYS[5], lane)
  return { answer[1], cmsgpack.pack(breaker), now }
end
if breaker and breaker.state == 'open' then return unchanged() end
if breaker and breaker.state == 'probing' then
  if bad > 0 then
    breaker.state, breaker.error, breaker.hand = 'open', ARGV[5], false
    breaker.interval = math.min(2 * breaker.interval, longest)
    breaker.due = now + breaker.interval
    return changed('probe-failed')
  end
  if good == 0 then
    -- The probe was moved to another lane without being sent, so another one goes out.
    breaker.state, breaker.due = 'open', now
    return changed('')
  end
  breaker.state, breaker.due, breaker.drain, breaker.step = 'draining', 0, drain, now
  if drain == 0 or not is_anything_due() then return changed('closed', true) end
  paid = 0
  return changed('draining')
end
local failed, total = count()
if bad > 0 and failed >= tonumber(ARGV[8]) and failed >= tonumber(ARGV[7]) * total then
  return open(breaker and math.min(2 * breaker.interval, longest) or first, failed, total)
end
if not breaker then return unchanged() end
if not is_anything_due() then return changed('closed', true) end
if now - breaker.step >= window then
  breaker.step, breaker.drain = now, 2 * breaker.drain
  write_breaker(breakers, limits, lane, breaker, paid)
  look_by_limits(KEYS, 6, limits, KEYS[4], KEYS[5], lane)
  return { 'faster', cmsgpack.pack(breaker), now }
end
return unchanged()
