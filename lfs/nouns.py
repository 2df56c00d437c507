"""Everyday nouns, written by hand: what suggested prompts are made of. One may add the words of one's own trade."""

from __future__ import annotations

from typing import Final

_WORDS: Final = """
person, man, woman, child, baby, crowd, face, hand, foot, hair, beard, couple, family, athlete, worker, doctor,
soldier, dress, gown, skirt, miniskirt, blouse, shirt, shirt with buttons, dress shirt, checked shirt, polo
shirt, t-shirt, tank top, top, long-sleeved top, sweater, pullover, jumper, cardigan, hoodie, sweatshirt,
jacket, coat, parka, raincoat, blazer, vest, suit, tie, jeans, trousers, pants, leggings, sweatpants, shorts,
denim shorts, swimming trunks, swimsuit, bikini, underwear, socks, tights, pyjamas, bathrobe, apron, uniform,
costume, jersey, scarf, gloves, belt, hat, cap, baseball cap, beanie, straw hat, sun hat, helmet, hood, shoes,
sneakers, boots, sandals, slippers, high heels, leather shoes, running shoes, bag, handbag, backpack, suitcase,
wallet, umbrella, glasses, sunglasses, watch, ring, necklace, earrings, crown, wig, mask, fabric, lace, fur,
leather, denim, wool, button, zipper, pocket, collar, sleeve, hanger, wardrobe, laundry, ironing board, dog,
puppy, cat, kitten, horse, pony, cow, bull, sheep, goat, pig, rabbit, hamster, mouse, rat, squirrel, fox, wolf,
bear, lion, tiger, leopard, elephant, giraffe, zebra, deer, moose, camel, monkey, gorilla, kangaroo, koala,
panda, hedgehog, bat, bird, parrot, eagle, owl, duck, goose, swan, chicken, rooster, turkey, penguin, pigeon,
gull, ostrich, peacock, nest, egg, fish, shark, whale, dolphin, seal, octopus, crab, lobster, shrimp, jellyfish,
starfish, shell, coral, snake, lizard, turtle, crocodile, frog, toad, dinosaur, insect, butterfly, moth, bee,
fly, ant, beetle, ladybird, spider, snail, worm, pet, animal, tree, palm tree, forest, leaf, flower, rose,
tulip, sunflower, daisy, grass, lawn, bush, moss, mushroom, cactus, garden, field, meadow, farm, hay, corn,
wheat, mountain, hill, valley, cliff, cave, desert, beach, sand, island, sea, ocean, wave, lake, river,
waterfall, pond, swamp, snow, ice, glacier, volcano, rock, stone, sky, cloud, rain, storm, lightning, rainbow,
sun, sunset, moon, star, night sky, galaxy, planet, fire, smoke, fog, landscape, horizon, path, road, highway,
bridge, car, taxi, sports car, van, truck, lorry, pickup, bus, tram, train, locomotive, subway, motorcycle,
scooter, bicycle, wheel, tyre, engine, airplane, jet, helicopter, glider, balloon, rocket, drone, ship, boat,
sailing boat, canoe, ferry, submarine, tractor, bulldozer, crane, ambulance, fire engine, police car, trailer,
wagon, sled, skateboard, traffic light, road sign, city, street, village, house, home, building, skyscraper,
tower, castle, palace, church, mosque, temple, barn, shed, tent, shop, market, restaurant, bar, hotel, school,
library, museum, hospital, office, factory, warehouse, stadium, theatre, airport, railway station, harbour,
garage, roof, wall, brick wall, fence, gate, door, window, stairs, balcony, chimney, room, empty room, kitchen,
bathroom, bedroom, living room, corridor, floor, carpet, curtain, bed, pillow, blanket, mattress, chair,
armchair, sofa, table, desk, shelf, cupboard, drawer, mirror, lamp, candle, vase, picture frame, clock, bathtub,
shower, toilet, sink, tap, refrigerator, oven, stove, microwave, dishwasher, washing machine, toaster, kettle,
pan, pot, plate, bowl, cup, mug, glass, bottle, can, jar, box, basket, bucket, knife, fork, spoon, chopsticks,
tray, teapot, food, meal, breakfast, bread, toast, sandwich, hamburger, hot dog, pizza, pasta, rice, soup,
salad, meat, steak, sausage, bacon, cheese, butter, chips, noodles, sushi, pancake, cake, pie, biscuit,
chocolate, sweets, ice cream, doughnut, honey, fruit, apple, banana, orange, lemon, strawberry, grapes, cherry,
peach, pear, pineapple, mango, melon, coconut, vegetable, tomato, potato, carrot, onion, garlic, pepper,
cucumber, broccoli, cabbage, pumpkin, nut, drink, water, milk, juice, coffee, espresso, tea, beer, wine,
cocktail, medicine, pill, syringe, bandage, toothbrush, soap, towel, perfume, lipstick, comb, computer, laptop,
keyboard, screen, phone, smartphone, tablet, camera, printer, television, radio, loudspeaker, headphones,
microphone, remote control, cable, battery, robot, machine, tool, hammer, screwdriver, saw, drill, axe, ladder,
nail, screw, rope, chain, lock, key, wire, pipe, scissors, needle, thread, broom, paint, brush, weapon, gun,
sword, shield, flag, coin, money, book, notebook, newspaper, magazine, letter, envelope, page of text,
handwriting, document, receipt, map, poster, sign, logo, barcode, drawing, painting, sculpture, statue,
photograph, cartoon, diagram, chart, screenshot, texture, pattern, toy, doll, teddy bear, puzzle, dice, playing
cards, chess, balloons, gift, Christmas tree, fireworks, party, wedding, ball, football, basketball, baseball,
tennis racket, golf, hockey, boxing, skiing, surfing, swimming, running, dancing, yoga, guitar, piano, violin,
drum, trumpet, flute, concert, song, music, singer, dance, video, film, actor, game, sport, news, politics,
government, law, crime, war, religion, science, space, technology, internet, website, channel, subscription,
advertisement, price, discount, shop offer, bank, business, company, job, salary, tax, health, disease, hospital
stay, travel, holiday, weather, history, education, student, teacher, friendship, love, anger, fear, joy,
sadness, joke, insult, complaint, praise, question, answer, greeting, thanks, apology, recipe, review, product,
delivery, password, link, email
"""


EVERYDAY: Final[tuple[str, ...]] = tuple(
    dict.fromkeys(word.strip() for word in _WORDS.replace("\n", " ").split(",") if word.strip())
)
"""Some 650 nouns and short phrases, each once."""
