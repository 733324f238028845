-- Counters beside the plain ones, in the same hash; the runner puts this before the scripts that use it.

-- Add to counters with labels. Of each metric, the part of a field's name before the bar, at most `most` fields are made;
-- what would need another is added to the field that is given instead. `arguments` has from `first` on: `most`, and then
-- field, the field instead, and how much; repeated until `last`.
local function add_tally(stats, arguments, first, last)
  local most = tonumber(arguments[first])
  for a = first + 1, last, 3 do
    local field, by = arguments[a], arguments[a + 2]
    if field ~= arguments[a + 1] and redis.call('HEXISTS', stats, field) == 0 then
      local known = 'fields|' .. string.match(field, '^[^|]*')
      if tonumber(redis.call('HGET', stats, known) or 0) >= most then
        field = arguments[a + 1]
      else
        redis.call('HINCRBY', stats, known, 1)
      end
    end
    redis.call('HINCRBY', stats, field, by)
  end
end

-- Count the workers that are lost, by the tokens of leases that have run out. The mark 2 in a worker's last claim says
-- that it is counted already.
local function count_lost_workers(stats, claims, tokens)
  local seen, lost = {}, 0
  for i = 1, #tokens do
    local name = string.match(tokens[i], '^(.*):%d+$')
    if name and not seen[name] then
      seen[name] = true
      local number, rest = string.match(redis.call('HGET', claims, name) or '', '^(%d+) 1(.*)$')
      if number then
        redis.call('HSET', claims, name, number .. ' 2' .. rest)
        lost = lost + 1
      end
    end
  end
  if lost > 0 then redis.call('HINCRBY', stats, 'lost_workers', lost) end
end

-- The bounds of the histogram of delays, in milliseconds.
local DELAYS = { 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 900000, 3600000 }

-- Count for how long messages were due: `found` has ids and due times, the earliest first.
local function count_delays(delays, found, now)
  local bucket = #DELAYS + 1
  for i = 2, #found, 2 do
    local delay = now - found[i]
    delays.sum = delays.sum + delay
    -- The later ones have waited for less time.
    while bucket > 1 and delay <= DELAYS[bucket - 1] do bucket = bucket - 1 end
    delays.of[bucket] = (delays.of[bucket] or 0) + 1
  end
end

local function add_delays(stats, delays)
  for bucket, number in pairs(delays.of) do
    local bound = DELAYS[bucket] or 'inf'
    redis.call('HINCRBY', stats, 'claim_delay|' .. bound, number)
  end
  if delays.sum > 0 then redis.call('HINCRBY', stats, 'claim_delay_sum|', string.format('%.0f', delays.sum)) end
end
