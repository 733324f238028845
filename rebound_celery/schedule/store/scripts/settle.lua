-- End leases: remove what is done, make due at once what is given back. What was stored anew since is left alone.
-- KEYS[1]  messages   HASH id -> stored message
-- KEYS[2]  wake       LIST of at most one token
-- KEYS[3]  dead       HASH id -> reason, line feed, stored message
-- KEYS[4..] waiting   ZSET of each priority step
-- ARGV     id, token, what; repeated. The token is the stored nonce, and the number of the lease: done is done though
--          the lease is over, but only who has the lease can give it back. What is 'done', 'release' (as if this lease had not been), 'lost' (as if it had
--          run out now), or the reason of a dead letter.
-- Returns the number of messages that were settled.
local settled, released = 0, false
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 1, #ARGV, 3 do
  local id, token, what = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local nonce, lease = string.sub(token, 1, 8), tonumber(string.sub(token, 9))
  local stored = redis.call('HGET', KEYS[1], id)
  local its_nonce = stored and string.sub(stored, 2, 9)
  -- What is too short to be whole has one all the same, or its lease could not be ended.
  if stored and #its_nonce < 8 then its_nonce = its_nonce .. string.rep('\0', 8 - #its_nonce) end
  if stored and its_nonce == nonce then
    if what == 'release' or what == 'lost' then
      for step = 4, #KEYS do
        local score = redis.call('ZSCORE', KEYS[step], id)
        -- The fraction counts the leases it has had, this one among them; another count is another's lease, and half
        -- of one more says that it was moved since.
        local had = score and math.floor((tonumber(score) % 1) * 1024 + 0.5)
        if score and (lease == nil or lease == had) then
          settled = settled + 1
          released = true
          had = had % 512
          if what == 'release' and had > 0 then
            had = had - 1
            if string.sub(stored, 1, 1) == '\2' then
              -- The next lease will have the same count, so it gets another nonce: this end may be sent again.
              local following = string.char((string.byte(nonce, 8) + 1) % 256)
              local renamed = string.sub(stored, 1, 8) .. following .. string.sub(stored, 10)
              redis.call('HSET', KEYS[1], id, renamed)
            end
          end
          redis.call('ZADD', KEYS[step], string.format('%.10f', now - 1 + had / 1024), id)
          break
        end
      end
    else
      settled = settled + 1
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
