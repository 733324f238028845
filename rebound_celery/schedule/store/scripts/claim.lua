-- Lease what is due to a worker. Lanes take turns, a more urgent rank comes first.
-- A claim is a worker's name and a number that grows. Asking again with the same number gives the same messages: the
-- answer was lost. A smaller number gets nothing: the worker has given up that claim. Until the worker has confirmed a
-- claim (see confirm.lua) its leases are for a short time only, and their end is no loss.
-- KEYS[1]  messages     HASH id -> envelope and stored form
-- KEYS[2]  leased       ZSET id -> end of its lease
-- KEYS[3]  leases       HASH id -> token
-- KEYS[4]  claims       HASH worker -> its last claim
-- KEYS[5]  unconfirmed  ZSET worker -> until when its claim must be confirmed
-- KEYS[6]  limits       HASH lane -> its limits
-- KEYS[7]  next         STRING time of the next claim
-- KEYS[8]  wake         LIST of at most one token
-- KEYS[9]  stats        HASH of counters
-- KEYS[10] claimed      STRING time of the last claim by any worker
-- KEYS[11] breakers     HASH lane -> its circuit breaker
-- KEYS[12..] lanes of each rank (ZSET lane -> when to look at it), the most urgent first
-- then     waiting of each lane reference (ZSET id -> due time)
-- ARGV[1]  the worker
-- ARGV[2]  the number of the claim
-- ARGV[3]  at most this many messages
-- ARGV[4]  a lease in milliseconds
-- ARGV[5]  milliseconds within which the claim must be confirmed
-- ARGV[6]  the number of ranks; ARGV[7..] their digits
-- then     the lane references whose waiting keys are given
-- Returns {milliseconds until the next claim or -1, references that are due and whose keys were not given, ids,
--          envelope and stored form of each}
local messages, leased, leases, claims, unconfirmed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local limits, stats, breakers = KEYS[6], KEYS[9], KEYS[11]
local now, exactly = clock()
local worker, limit, lease, ranks = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[6])
local token = worker .. ':' .. ARGV[2]
local SOME = 100 -- how many leases that ran out are looked at in one claim
local LANES = 32 -- how many due lanes are looked at; those that were served last come last
local PARTS = 16 -- among about how many lanes a claim is divided: each costs some time
local REMEMBERED = 600000 -- milliseconds for which a confirmed claim is remembered

local lanes_of, waiting_of = {}, {}
for i = 1, ranks do lanes_of[ARGV[6 + i]] = KEYS[11 + i] end
for i = 7 + ranks, #ARGV do waiting_of[ARGV[i]] = KEYS[5 + i] end

local needed, is_needed = {}, {}
local function need(reference)
  if not is_needed[reference] then
    is_needed[reference] = true
    needed[#needed + 1] = reference
  end
end

-- Let leased messages wait again. Those whose lane's key is not at hand stay as they are; returns how many.
local function put_back(ids, is_loss)
  local held, tokens = redis.call('HMGET', messages, unpack(ids)), nil
  if is_loss then tokens = redis.call('HMGET', leases, unpack(ids)) end
  local left, returned, gone = 0, 0, {}
  for i, id in ipairs(ids) do
    local message = held[i]
    local reference = message and reference_of(message)
    if not message then
      redis.call('ZREM', leased, id)
      redis.call('HDEL', leases, id)
    elseif not lanes_of[string.sub(reference, 1, 1)] then
      -- The app has this rank no more: nothing can be done with it, and it must not be looked at all the time.
      redis.call('ZADD', leased, 'XX', now + lease, id)
    elseif not waiting_of[reference] then
      need(reference)
      left = left + 1
    else
      redis.call('ZREM', leased, id)
      if is_loss then
        redis.call('HSET', messages, id, with_one_more_loss(message))
        if tokens[i] then
          redis.call('HSET', leases, id, '-' .. tokens[i])
          gone[#gone + 1] = tokens[i]
        end
      else
        redis.call('HDEL', leases, id)
      end
      redis.call('ZADD', waiting_of[reference], first_place(waiting_of[reference], now), id)
      look_at(lanes_of[string.sub(reference, 1, 1)], limits, string.sub(reference, 2), now)
      returned = returned + 1
    end
  end
  if returned > 0 then redis.call('HINCRBY', stats, is_loss and 'ran_out' or 'unconfirmed', returned) end
  if #gone > 0 then count_lost_workers(stats, claims, gone) end
  return left
end

-- Those of `ids` that are leased with this token.
local function still_leased(ids, its_token)
  local mine = {}
  if #ids > 0 then
    for i, found in ipairs(redis.call('HMGET', leases, unpack(ids))) do
      if found == its_token then mine[#mine + 1] = ids[i] end
    end
  end
  return mine
end

local function end_unconfirmed()
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', unconfirmed, '-inf', now, 'LIMIT', 0, SOME)) do
    local claim = redis.call('HGET', claims, other)
    local number, confirmed, ids
    if claim then number, confirmed, ids = parse_claim(claim) end
    if not claim or confirmed then
      redis.call('HDEL', claims, other)
      redis.call('ZREM', unconfirmed, other)
    else
      local its_own = still_leased(ids, other .. ':' .. number)
      if #its_own == 0 or put_back(its_own, false) == 0 then
        redis.call('HSET', claims, other, number .. ' 1 ' .. cmsgpack.pack({}))
        redis.call('ZADD', unconfirmed, now + REMEMBERED, other)
      end
    end
  end
end

-- Those of `ids` that have a message, with their messages, leased until the usual time.
local function leased_messages(ids)
  local held = redis.call('HMGET', messages, unpack(ids))
  local ends, tokens = {}, {}
  local until_ms = string.format('%.0f', now + lease)
  local all_there = true
  for i, id in ipairs(ids) do
    if not held[i] then all_there = false end
    ends[2 * i - 1], ends[2 * i] = until_ms, id
    tokens[2 * i - 1], tokens[2 * i] = id, token
  end
  if not all_there then
    -- A message that is gone without its id is not delivered, and its id is forgotten.
    local there, whole = {}, {}
    ends, tokens = {}, {}
    for i, id in ipairs(ids) do
      if held[i] then
        there[#there + 1], whole[#whole + 1] = id, held[i]
        ends[#ends + 1], ends[#ends + 2] = until_ms, id
        tokens[#tokens + 1], tokens[#tokens + 2] = id, token
      end
    end
    ids, held = there, whole
    if #ids == 0 then return ids, held end
  end
  redis.call('ZADD', leased, unpack(ends))
  redis.call('HSET', leases, unpack(tokens))
  redis.call('ZADD', unconfirmed, now + tonumber(ARGV[5]), worker)
  return ids, held
end

local has_limits, has_breakers
local delays = { sum = 0, of = {} }

-- Whether a less urgent rank may have due messages of a lane.
local function is_due_below(rank, lane)
  for i = ranks, 1, -1 do
    if ARGV[6 + i] == rank then return false end
    local at = redis.call('ZSCORE', KEYS[11 + i], lane)
    if at and tonumber(at) <= exactly then return true end
  end
end

-- Take at most so many due messages of a lane; what is taken is put into `taken`.
local function take(rank, lane, waiting, share, taken)
  local paused, rate, paid = 0, 0, 0
  if has_limits then
    paused, rate, paid = limits_of(limits, lane)
    if paused > now then return 0 end
    if rate > 0 then
      paid = math.max(paid, exactly)
      share = math.min(share, math.floor((exactly - paid) * rate / 1000 + burst_of(rate) + 0.001))
      if share <= 0 then return 0 end
    end
    if has_breakers and paused > 0 then
      local breaker = breaker_of(breakers, lane)
      if breaker and breaker.state ~= 'draining' then
        local id = probe_of(breaker, waiting, now, function() return is_due_below(rank, lane) end)
        if not id then return 0 end
        redis.call('ZREM', waiting, id)
        taken[#taken + 1] = id
        breaker.state, breaker.due, breaker.probe = 'probing', now + breaker.wait, id
        write_breaker(breakers, limits, lane, breaker, rate > 0 and paid + 1000 / rate or paid)
        return 1
      end
    end
  end
  local found = redis.call('ZRANGEBYSCORE', waiting, '-inf', now, 'WITHSCORES', 'LIMIT', 0, share)
  local got = #found / 2
  if got > 0 then
    redis.call('ZREMRANGEBYRANK', waiting, 0, got - 1)
    for i = 1, #found, 2 do taken[#taken + 1] = found[i] end
    count_delays(delays, found, now)
    if rate > 0 then write_limits(limits, lane, paused, rate, paid + got * 1000 / rate) end
  end
  return got
end

-- Let a lane be looked at again at the right time: `served` says that it had its turn.
local function look_again(lanes, lane, waiting, served)
  local head = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')
  if not head[2] then
    redis.call('ZREM', lanes, lane)
    return
  end
  local at = tonumber(head[2])
  if at <= now and served then at = exactly end
  if has_limits then at = math.max(at, open_from(limits_of(limits, lane))) end
  redis.call('ZADD', lanes, string.format('%.3f', at), lane)
end

redis.call('SET', KEYS[10], now, 'EX', 86400)
local taken, given = {}, {}
-- Whether nothing new may be leased: this claim was made before, or the one before is not cleared away yet.
local is_repeated = false
local last = redis.call('HGET', claims, worker)
if last then
  local number, confirmed, ids = parse_claim(last)
  if number >= tonumber(ARGV[2]) then
    is_repeated = true
    if number == tonumber(ARGV[2]) then
      local mine = still_leased(ids, token)
      if #mine > 0 then
        taken, given = leased_messages(mine)
        redis.call('HSET', claims, worker, number .. ' 0 ' .. cmsgpack.pack(taken))
      end
    end
  elseif not confirmed then
    -- The worker has given that claim up.
    local its_own = still_leased(ids, worker .. ':' .. number)
    if #its_own > 0 and put_back(its_own, false) > 0 then is_repeated = true end
  end
end

if head_of(unconfirmed) <= now then end_unconfirmed() end
local lease_end = head_of(leased)
if lease_end <= now then
  put_back(redis.call('ZRANGEBYSCORE', leased, '-inf', now, 'LIMIT', 0, SOME), true)
  lease_end = head_of(leased)
end

local nearest = math.huge
has_limits = redis.call('EXISTS', limits) == 1
has_breakers = has_limits and redis.call('EXISTS', breakers) == 1
local free = is_repeated and 0 or limit
for r = 1, ranks do
  local rank, lanes = ARGV[6 + r], KEYS[11 + r]
  local head = head_of(lanes)
  if head <= exactly and free > 0 then
    local due = redis.call('ZRANGEBYSCORE', lanes, '-inf', string.format('%.3f', exactly), 'LIMIT', 0, LANES)
    local shared_by, all_known, full = #due, true, {}
    for _, lane in ipairs(due) do
      local waiting = waiting_of[rank .. lane]
      if not waiting then
        need(rank .. lane)
        all_known = false
      elseif free > 0 then
        local share = math.min(free, math.max(math.ceil(free / shared_by), math.ceil(limit / PARTS)))
        local got = take(rank, lane, waiting, share, taken)
        free = free - got
        if got == share then
          full[#full + 1] = lane
        else
          look_again(lanes, lane, waiting, true)
        end
      end
      shared_by = shared_by - 1
    end
    for _, lane in ipairs(full) do
      local waiting = waiting_of[rank .. lane]
      -- What other lanes left of their shares; unless lanes that were not given have a right to it.
      if all_known and free > 0 then free = free - take(rank, lane, waiting, free, taken) end
      look_again(lanes, lane, waiting, true)
    end
    head = head_of(lanes)
    -- Nothing less urgent comes before a lane that could not be looked at.
    if not all_known then free = 0 end
  end
  nearest = math.min(nearest, head)
end

if #taken > 0 and not is_repeated then
  taken, given = leased_messages(taken)
  if #taken > 0 then
    redis.call('HSET', claims, worker, ARGV[2] .. ' 0 ' .. cmsgpack.pack(taken))
    redis.call('HINCRBY', stats, 'claimed', #taken)
    add_delays(stats, delays)
  end
end
if #taken > 0 then lease_end = math.min(lease_end, now + lease) end
nearest = math.min(nearest, lease_end, head_of(unconfirmed))
local wait = -1
if nearest < math.huge then
  wait = math.max(0, math.ceil(nearest - exactly))
  redis.call('SET', KEYS[7], string.format('%.0f', math.ceil(nearest)))
else
  redis.call('DEL', KEYS[7])
end
if #needed > 0 then wait = 0 end
-- Another worker may be asleep while this one cannot take all that is due. It claims again at once where lanes are needed.
local claims_again = #needed > 0 and #taken < limit
if nearest <= exactly and not claims_again and redis.call('LLEN', KEYS[8]) == 0 then redis.call('LPUSH', KEYS[8], '{}') end
return { wait, needed, taken, given }
