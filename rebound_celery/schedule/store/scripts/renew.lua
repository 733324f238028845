-- Make leases last longer, each by its id; what is no longer leased, or was stored anew, is left alone.
-- KEYS[1]  messages   HASH id -> stored message
-- KEYS[2..] waiting   ZSET of each priority step
-- ARGV[1]  lease in milliseconds
-- ARGV[2..] id, nonce; repeated
-- Returns the number of leases that go on.
local time = redis.call('TIME')
local until_ms = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[1])
local renewed = 0
for i = 2, #ARGV, 2 do
  local id = ARGV[i]
  local stored = redis.call('HGET', KEYS[1], id)
  if stored and string.sub(stored, 2, 9) == ARGV[i + 1] then
    for step = 2, #KEYS do
      local score = redis.call('ZSCORE', KEYS[step], id)
      if score then
        local fraction = tonumber(score) % 1
        if fraction > 0 and fraction < 0.5 then
          redis.call('ZADD', KEYS[step], string.format('%.10f', until_ms + fraction), id)
          renewed = renewed + 1
        end
        break
      end
    end
  end
end
return renewed
