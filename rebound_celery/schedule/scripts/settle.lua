-- End leases: remove what is done, make due at once what is given back. What was stored anew since is left alone.
-- KEYS[1]  messages   HASH id -> stored message
-- KEYS[2]  wake       LIST of at most one token
-- KEYS[3]  dead       HASH id -> reason, line feed, stored message
-- KEYS[4..] waiting   ZSET of each priority step
-- ARGV     id, nonce, what; repeated. What is 'done', 'release' (as if this lease had not been), 'lost' (as if it had
--          run out now), or the reason of a dead letter.
-- Returns the number of messages that were settled.
local settled, released = 0, false
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 1, #ARGV, 3 do
  local id, nonce, what = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local stored = redis.call('HGET', KEYS[1], id)
  if stored and string.sub(stored, 2, 9) == nonce then
    settled = settled + 1
    if what == 'release' or what == 'lost' then
      for step = 4, #KEYS do
        local score = redis.call('ZSCORE', KEYS[step], id)
        if score then
          -- The fraction counts the leases it has had, this one among them.
          local had = math.floor((tonumber(score) % 1) * 1024 + 0.5)
          if what == 'release' and had > 0 then had = had - 1 end
          redis.call('ZADD', KEYS[step], string.format('%.10f', now - 1 + had / 1024), id)
          break
        end
      end
      released = true
    else
      if what ~= 'done' then redis.call('HSET', KEYS[3], id, what .. '\n' .. stored) end
      redis.call('HDEL', KEYS[1], id)
      for step = 4, #KEYS do
        if redis.call('ZREM', KEYS[step], id) == 1 then break end
      end
    end
  end
end
if released and redis.call('LLEN', KEYS[2]) == 0 then redis.call('LPUSH', KEYS[2], '{}') end
return settled
