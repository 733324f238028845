-- Count what endpoints answered. An endpoint has a row only while it fails or is disabled.
-- KEYS[1]  health  HASH endpoint -> failing since, last failure, failures, slow answers, slow until, disabled at, reason
-- ARGV[1]  how many milliseconds without a failure end a series of them
-- ARGV[2]  how many rows are kept at most, beside those of endpoints that are disabled here
-- ARGV[3..] for each endpoint: its name; 1 where it took a message, else 0; its failures; how many milliseconds it wants
--          to be left alone, -1 for not; after how many milliseconds of failures it is disabled, 0 for never; why it is
--          disabled at once, or nothing
-- Returns for each endpoint: its row, and 1 where this has disabled it. An endpoint without a row has an empty one.
-- After that many failures in its time, an endpoint is disabled; fewer may be those of one message.
local LEAST_FAILURES = 5
local LONGEST_SLOW_MS = 60000
local now = clock()
local answers = {}
for i = 3, #ARGV, 6 do
  local name, took, failures = ARGV[i], ARGV[i + 1] == '1', tonumber(ARGV[i + 2])
  local alone, after, gone = tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]), ARGV[i + 5]
  local row, is_new = redis.call('HGET', KEYS[1], name) or '', 0
  local since, last, count, slows, slow_until, disabled, reason =
    string.match(row, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (.*)$')
  disabled = tonumber(disabled or 0)
  if disabled == 0 and took and gone == '' then
    if row ~= '' then redis.call('HDEL', KEYS[1], name) end
    row = ''
  elseif failures > 0 or gone ~= '' then
    if not since or (disabled == 0 and now - tonumber(last) > tonumber(ARGV[1])) then
      since, count, slows, slow_until, reason = now, 0, 0, 0, ''
    end
    count = tonumber(count) + failures
    slows, slow_until = tonumber(slows), tonumber(slow_until)
    if alone >= 0 then
      slow_until = math.max(slow_until, now + math.max(alone, math.min(LONGEST_SLOW_MS, 1000 * 2 ^ math.min(slows, 10))))
      slows = slows + 1
    end
    if disabled == 0 then
      if gone ~= '' then
        disabled, reason, is_new = now, gone, 1
      elseif after > 0 and now - tonumber(since) >= after and count >= LEAST_FAILURES then
        disabled, is_new = now, 1
        reason = string.format('nothing but failures for %.1f hours', (now - tonumber(since)) / 3600000)
      end
    end
    local is_kept = row ~= '' or disabled > 0 or redis.call('HLEN', KEYS[1]) < tonumber(ARGV[2])
    row = string.format('%.0f %.0f %.0f %.0f %.0f %.0f %s', since, now, count, slows, slow_until, disabled, reason)
    if is_kept then redis.call('HSET', KEYS[1], name, row) end
  end
  answers[#answers + 1] = {row, is_new}
end
return answers
