-- Count what endpoints answered. An endpoint has a row only while it fails or is disabled.
-- KEYS[1]  health  HASH endpoint -> failing since, last failure, failures, slow answers, slow until, disabled at,
--          when operators are to be told of it if nobody has by then, 0 if they were told; reason
-- ARGV[1]  how many milliseconds without a failure end a series of them
-- ARGV[2]  how many rows are kept at most, beside those of endpoints that are disabled here
-- ARGV[3..] for each endpoint: its name; 1 where it took a message, else 0; its failures; how many milliseconds it wants
--          to be left alone, -1 for not; after how many milliseconds of failures it is disabled, 0 for never; why it is
--          disabled at once, or nothing; 1 where the caller tells operators that it is disabled, 2 where it has, else 0
-- Returns for each endpoint: its row, and 1 where the caller is to tell operators now that it is disabled. An endpoint
-- without a row has an empty one.
-- After that many failures in its time, an endpoint is disabled; fewer may be those of one message.
local LEAST_FAILURES = 5
local LONGEST_SLOW_MS = 60000
-- For so long nobody else tells what somebody is about to tell.
local TELL_MS = 60000
local now = clock()
local answers = {}
for i = 3, #ARGV, 7 do
  local name, took, failures = ARGV[i], ARGV[i + 1] == '1', tonumber(ARGV[i + 2])
  local alone, after, gone, telling = tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]), ARGV[i + 5], ARGV[i + 6]
  local row, is_telling = redis.call('HGET', KEYS[1], name) or '', 0
  local since, last, count, slows, slow_until, disabled, tell_at, reason =
    string.match(row, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (.*)$')
  disabled, tell_at = tonumber(disabled or 0), tonumber(tell_at or 0)
  if disabled == 0 and took and gone == '' then
    if row ~= '' then redis.call('HDEL', KEYS[1], name) end
    row = ''
  elseif failures > 0 or gone ~= '' or tell_at > 0 then
    if not since or (disabled == 0 and now - tonumber(last) > tonumber(ARGV[1])) then
      since, count, slows, slow_until, reason = now, 0, 0, 0, ''
    end
    if failures > 0 or gone ~= '' then last = now end
    count = tonumber(count) + failures
    slows, slow_until = tonumber(slows), tonumber(slow_until)
    if alone >= 0 then
      slow_until = math.max(slow_until, now + math.max(alone, math.min(LONGEST_SLOW_MS, 1000 * 2 ^ math.min(slows, 10))))
      slows = slows + 1
    end
    if disabled == 0 then
      if gone ~= '' then
        disabled, tell_at, reason = now, now, gone
      elseif after > 0 and now - tonumber(since) >= after and count >= LEAST_FAILURES then
        disabled, tell_at = now, now
        reason = string.format('nothing but failures for %.1f hours', (now - tonumber(since)) / 3600000)
      end
    end
    if telling == '2' or (disabled == now and telling == '0') then
      tell_at = 0
    elseif telling == '1' and tell_at > 0 and tell_at <= now then
      tell_at, is_telling = now + TELL_MS, 1
    end
    local is_kept = row ~= '' or disabled > 0 or redis.call('HLEN', KEYS[1]) < tonumber(ARGV[2])
    row = string.format('%.0f %.0f %.0f %.0f %.0f %.0f %.0f %s', since, last, count, slows, slow_until, disabled, tell_at, reason)
    if is_kept then redis.call('HSET', KEYS[1], name, row) end
  end
  answers[#answers + 1] = {row, is_telling}
end
return answers
